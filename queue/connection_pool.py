"""A pool that keeps one idle connection open: all boxes' connections count against the server's `maxclients`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis

if TYPE_CHECKING:
    from redis.connection import Connection


class FrugalPool(redis.ConnectionPool):
    """redis-py's pool; what was opened because several threads asked at once is closed when it is given back."""

    def release(self, connection: Connection) -> None:  # type: ignore[override]
        """Take a connection back and close the idle ones but this, which the next command will use."""
        super().release(connection)
        with self._lock:
            for idle in self._available_connections[:-1]:
                idle.disconnect()
