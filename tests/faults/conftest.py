"""A house for each story; see tests/rig."""

from tests.rig.fixtures import frail, house, queue_server, street

__all__ = ["frail", "house", "queue_server", "street"]
