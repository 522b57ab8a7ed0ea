"""FAKE, see lerobot/__init__.py."""
