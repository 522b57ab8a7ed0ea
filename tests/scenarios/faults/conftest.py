"""A cluster for each story; see tests/rig."""

from tests.rig.fixtures import cluster, killable_cluster, queue_server, shared_cluster

__all__ = ["cluster", "killable_cluster", "queue_server", "shared_cluster"]
