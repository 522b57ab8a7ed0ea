"""A cluster for each story; see tests/rig."""

from tests.rig.fixtures import cluster, queue_server

__all__ = ["cluster", "queue_server"]
