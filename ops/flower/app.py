"""Flower with pi0q's records in it: configuration, login and the process that serves it.

The feeder publishes the records, so that every job and its whole history is shown, whenever Flower was started.
"""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi0q.jobs.errors import UsageError
from pi0q.ops import web_login
from pi0q.ops.flower import hardening
from pi0q.ops.flower.events import Event
from pi0q.ops.flower.feeder import Feeder
from pi0q.queue import celery_app
from pi0q.queue.broken_records import BrokenRecordLog
from pi0q.queue.connection import connect
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store

if TYPE_CHECKING:
    from flower.app import Flower

USER = web_login.USER
#: Seconds after which a box that is gone leaves the list of workers.
PURGE_SECONDS = 3600
#: Upper bounds, in seconds, of the buckets of the runtime metric: ten minutes to a week.
RUNTIME_BUCKETS = [600.0, 3600.0, 21600.0, 86400.0, 172800.0, 604800.0]
COLUMNS = "args,uuid,state,result,received,started,runtime,worker"


@dataclass(frozen=True, kw_only=True)
class WebOptions:
    """Where Flower listens, and the login that it asks for."""

    port: int
    address: str = "127.0.0.1"
    user: str = USER
    password: str
    #: Whether pages have no buttons.
    read_only: bool = False


def password(home: Path, path: Path | None = None) -> str:
    """Return the password of Flower; create it on the first call. Raises UsageError if the file is unusable."""
    return web_login.password(path or home / "flower.password")


def build(settings: Settings, store: Store, web_options: WebOptions) -> Flower:
    """Return Flower, not listening yet."""
    from flower.api import BaseApiHandler
    from flower.app import Flower
    from flower.options import options
    from flower.urls import settings as handlers_settings
    from flower.views import BaseHandler
    from flower.views.monitor import Healthcheck, Metrics

    chosen: dict[str, Any] = {
        "port": web_options.port,
        "address": web_options.address,
        "basic_auth": [f"{web_options.user}:{web_options.password}"],
        "read_only": web_options.read_only,
        "purge_offline_workers": PURGE_SECONDS,
        "task_runtime_metric_buckets": RUNTIME_BUCKETS,
        "tasks_columns": COLUMNS,
        "natural_time": True,
        # Workers send events without being asked.
        "enable_events": False,
    }
    for name, value in chosen.items():
        setattr(options, name, value)
    # It warns whenever no box answers.
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
    capp = celery_app.make(settings)
    # On the record itself, so that it works for waiting jobs and while no box can be reached.
    capp.control.revoke = partial(cancel, store, web_options.user)
    web = Flower(capp=capp, options=options, **handlers_settings)
    web.events.on_event = without_tasks(web.events.on_event)
    hardening.harden(
        BaseHandler, (Metrics, Healthcheck), address=web_options.address, own_page=partial(page_of, settings.home)
    )
    BaseApiHandler.write_error = asking_for_password(BaseApiHandler.write_error)
    return web


def page_of(home: Path) -> str:
    """Return the address of pi0q's own page, where `pi0q up` runs it; "" elsewhere."""
    try:
        url = json.loads((home / "up.json").read_text(encoding="utf-8")).get("web_url")
    except (OSError, ValueError, AttributeError):
        return ""
    return str(url) if isinstance(url, str) and url.startswith("http://127.0.0.1:") else ""


def cancel(store: Store, user: str, task_id: str, **_: Any) -> None:
    """Cancel a job for the user who is logged in; Flower's Terminate and Revoke call this."""
    store.cancel(task_id, text=f"cancelled in Flower by {user}")


def without_tasks(on_event: Callable[[Event], None]) -> Callable[[Event], None]:
    """Return a handler that drops the workers' own task events: those end when a box stops, not when a job does."""

    def pass_on(event: Event) -> None:
        if not event["type"].startswith("task-"):
            on_event(event)

    return pass_on


def asking_for_password(write_error: Callable[..., None]) -> Callable[..., None]:
    """Return an error handler that names the scheme of the login when Flower's API refuses a request.

    Without that header a browser opened at a job's page does not send its password with the buttons there.
    """

    def refuse(handler: Any, status_code: int, **fields: Any) -> None:
        if status_code == 401:
            handler.set_header("WWW-Authenticate", 'Basic realm="flower"')
        write_error(handler, status_code, **fields)

    return refuse


def serve(settings: Settings, web_options: WebOptions, say: Callable[[str], None]) -> None:
    """Run Flower until Ctrl-C or SIGTERM. Raises UsageError if its port is taken."""
    store = Store(connect(settings), settings.prefix, on_broken=BrokenRecordLog())
    web = build(settings, store, web_options)
    try:
        port = web.start_http_server()
    except OSError as error:
        raise UsageError(
            f"Flower can't listen on {web_options.address}:{web_options.port}: {error.strerror}. Nothing was started.\n"
            "Fix: choose another port with --port, or --port 0 for any that is free."
        ) from None
    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, lambda *_: web.io_loop.add_callback_from_signal(web.stop))
    say(f"Flower: http://{web_options.address}:{port}  user {web_options.user}, password in its file. Ctrl-C stops it.")
    if web_options.address not in ("127.0.0.1", "::1", "localhost"):
        say("Other machines can reach it, and the password is sent unencrypted. Prefer `ssh -L`.")
    feeder = Feeder(store, web, silent_seconds=settings.timing.silent)
    feeder.start()
    try:
        web.start()
    finally:
        feeder.stopping.set()
