"""The rig is tried on a house of its own."""

from tests.rig.fixtures import frail

__all__ = ["frail"]
