"""A house for each story; see tests/rig."""

from tests.rig.fixtures import frail, house, queue_server, street
from tests.rig.house import Box, House
from tests.rig.server import Server

__all__ = ["Box", "House", "Server", "frail", "house", "queue_server", "street"]
