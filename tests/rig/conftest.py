"""The rig is tried on a cluster of its own."""

from tests.rig.fixtures import killable_cluster

__all__ = ["killable_cluster"]
