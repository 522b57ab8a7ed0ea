"""Attacks of a security review, each replayed as its author wrote it; see tests/rig for the cluster."""

from tests.rig.cluster import Box, Cluster
from tests.rig.fixtures import cluster, queue_server
from tests.rig.server import Server

__all__ = ["Box", "Cluster", "Server", "cluster", "queue_server"]
