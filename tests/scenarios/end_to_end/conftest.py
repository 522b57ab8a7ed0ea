"""A cluster for each story; see tests/rig."""

from tests.rig.cluster import Box, Cluster
from tests.rig.fixtures import cluster, killable_cluster, queue_server, shared_cluster
from tests.rig.server import Server

__all__ = ["Box", "Cluster", "Server", "cluster", "killable_cluster", "queue_server", "shared_cluster"]
