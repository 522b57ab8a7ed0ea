"""The store as commands of users see it: reads and requests, by either client."""

from __future__ import annotations

from pi0q.queue.store_reads import StoreReads
from pi0q.queue.store_requests import StoreRequests


class UserStore(StoreReads, StoreRequests):
    """What users read and ask for. Raises the client's error when the server can't be reached."""
