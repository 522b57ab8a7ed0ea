"""/metrics of the web page, for Prometheus: behind the page's password, from the watcher's view."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pi0q.ops.metrics.exposition import LATELY_HOURS, exposition
from pi0q.ops.web.app import Unreadable, site_of
from pi0q.queue.reading.values import FleetView
from pi0q.queue.store import Store

FORMAT = "text/plain; version=0.0.4; charset=utf-8"


def told(store: Store, view: FleetView) -> bytes:
    """Return the metrics of a view, with what claims of the last day cost. Raises the client's error."""
    return exposition(view, store.holds(view.now_ms - LATELY_HOURS * 3_600_000))


async def metrics(request: Request) -> Response:
    """Answer Prometheus."""
    site = site_of(request)
    state = await site.state()
    if state.view is None or state.away_since is not None:
        # An old number would look like a new one.
        raise Unreadable
    return Response(await run_in_threadpool(told, site.details.store, state.view), media_type=FORMAT)


ROUTE = Route("/metrics", metrics)
