"""Celery's Redis transport as a box uses it: a message that is not pi0q's is dropped with a log line.

Plain kombu raises out of its event loop where a message is no JSON or lacks a field, which ends the worker.
"""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import redis

from pi0q.queue import celery_message
from pi0q.queue.connection_pool import FrugalPool

log = logging.getLogger(__name__)


#: The keywords of a connection that say to which server and as whom.
SERVER = ("host", "port", "path", "db", "username")
#: Pools of this process, one a server.
POOLS: dict[tuple[str, ...], FrugalPool] = {}


class Channel(redis.Channel):
    """A channel that reads only messages that `pi0q submit` can have written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        # It was opened for a ping; only a channel that listens to a queue needs it, and opens it again.
        self.async_pool.disconnect()

    def _get_pool(self, asynchronous: bool = False) -> Any:
        """Return one pool for all channels' questions and answers; each channel listens on a connection of its own."""
        own = super()._get_pool(asynchronous)  # type: ignore[no-untyped-call]
        if asynchronous:
            return own
        kwargs = own.connection_kwargs
        server = tuple(str(kwargs.get(name)) for name in SERVER)
        return POOLS.setdefault(server, FrugalPool(own.connection_class, own.max_connections, **kwargs))

    def _disconnect_pools(self) -> None:
        """Close what this channel listens on; other channels use the shared pool still."""
        self._pool = None
        super()._disconnect_pools()  # type: ignore[no-untyped-call]

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, RecursionError) as error:
            # The message left the queue before it was parsed.
            log.warning("dropped a message that cannot be read: %s", type(error).__name__)
            return True

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any) -> None:
        super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)  # type: ignore[no-untyped-call]
        if not queue.startswith(celery_message.BOX_QUEUES):
            return
        deliver = self.connection._callbacks[queue]

        def deliver_own(raw: Any) -> None:
            if fault := celery_message.fault(raw):
                log.warning("dropped a message of %s: %s", queue, fault)
            else:
                deliver(raw)

        self.connection._callbacks[queue] = deliver_own


class Transport(redis.Transport):
    """The transport of a box's worker."""

    Channel = Channel
