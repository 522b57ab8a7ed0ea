"""The process that serves the page until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import uvicorn

from pi0q.jobs.errors import UsageError
from pi0q.ops.web import app, metrics
from pi0q.ops.web.details import Details
from pi0q.ops.web.security import Logins
from pi0q.ops.web_login import LOOPBACK
from pi0q.queue.broken_records import BrokenRecordLog
from pi0q.queue.connection import connect
from pi0q.queue.reading import watcher
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store

#: The newest ends that the list of jobs has.
ENDED = 300
#: Seconds that open answers have to end after Ctrl-C.
STOP_SECONDS = 2


@dataclass(frozen=True, kw_only=True)
class WebOptions:
    """Where the page listens, and its logins."""

    port: int
    address: str = "127.0.0.1"
    logins: Logins


class _Server(uvicorn.Server):
    """Ends the streams of browsers when it is to end."""

    def __init__(self, config: uvicorn.Config, site: app.Site) -> None:
        super().__init__(config)
        self._site = site
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop in order on SIGINT and SIGTERM; uvicorn's own raises the signal once more at the end."""
        before = {one: signal.signal(one, self._stop) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _stop(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True
        if self._loop:
            self._loop.call_soon_threadsafe(self._site.end)


def serve(settings: Settings, options: WebOptions, logins: Sequence[str], say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C or SIGTERM. `logins`: lines that say who logs in how.

    Raises UsageError if its port is taken.
    """
    try:
        listening = _listen(options.address, options.port)
    except OSError as error:
        raise UsageError(
            f"The page can't listen on {options.address}:{options.port}: {error.strerror}. Nothing was started.\n"
            "Fix: choose another port with --port, or --port 0 for any that is free."
        ) from None
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    with listening:
        store = Store(connect(settings), settings.prefix, on_broken=BrokenRecordLog())
        site = app.Site(
            watcher=watcher.watch(settings, live=-1, ended=ENDED), details=Details(store), logins=options.logins
        )
        config = uvicorn.Config(
            app.build(site, address=options.address, extra=[metrics.ROUTE]),
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        say(f"Web page: {url(options.address, listening)}  {'; '.join(logins)}. Ctrl-C stops it.")
        if options.address not in LOOPBACK:
            say("Other machines can reach it, and the password is sent unencrypted. Prefer `ssh -L`.")
        try:
            _Server(config, site).run(sockets=[listening])
        finally:
            site.watcher.stop()


def url(address: str, listening: socket.socket) -> str:
    """Return the address for a browser."""
    port = listening.getsockname()[1]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _listen(address: str, port: int) -> socket.socket:
    """Return a bound socket. Raises OSError."""
    found = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((address, port))
        # Whoever reads the address may connect at once.
        found.listen(128)
    except OSError:
        found.close()
        raise
    return found
