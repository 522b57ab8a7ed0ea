"""The web page: its addresses, what is read for each, and the process that serves it.

One watcher reads the fleet for all browsers; a page is made once for each of its versions and sent to whoever asks.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pi0q.jobs import job_id as job_ids
from pi0q.jobs.errors import BadRecord, NotFound
from pi0q.ops.web import actions, job_screen, security
from pi0q.ops.web.details import Details
from pi0q.ops.web.screens import Frame, Screens
from pi0q.ops.web.security import Role
from pi0q.ops.web.words import Words, choose
from pi0q.queue.reading.values import FleetView
from pi0q.queue.reading.watcher import FleetState, Watcher

#: Seconds for which a page waits for the first look at the queue.
FIRST_SECONDS = 8.0
#: Seconds after which a view is looked for anew where nobody has followed the fleet.
STALE_SECONDS = 8.0
#: Browsers that follow at the same time; seconds between two signs of life to each.
MOST_FOLLOWERS, PING_SECONDS = 200, 15.0
#: Pages of one version that are kept.
MOST_KEPT = 200

Render = Callable[[Frame, FleetView], str]


class Unreadable(Exception):
    """The queue has not been read yet, or can't be."""


@dataclass
class Site:
    """Everything that the answers share."""

    watcher: Watcher
    details: Details
    logins: security.Logins
    screens: Screens = field(default_factory=Screens)
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    #: One for each browser that follows.
    followers: set[asyncio.Event] = field(default_factory=set)
    ending: bool = False
    #: Pages as they were made last, by address, language, role and part; of the version `_kept_of`.
    _kept: dict[tuple[str, ...], str] = field(default_factory=dict)
    _kept_of: int = -1
    _making: asyncio.Lock = field(default_factory=asyncio.Lock)

    def end(self) -> None:
        """End the streams of all browsers: a server waits for them before it ends."""
        self.ending = True
        for changed in self.followers:
            changed.set()

    async def state(self) -> FleetState:
        """Return the fleet's newest state. Raises Unreadable before the first view."""
        state = self.watcher.state
        if state.view is None or (not self.followers and time.monotonic() - state.read_at > STALE_SECONDS):
            wait = FIRST_SECONDS if state.away_since is None or state.view is None else 0.0
            state = await run_in_threadpool(self.watcher.fresh, STALE_SECONDS, wait)
        if state.view is None:
            raise Unreadable
        return state

    async def page(self, request: Request, render: Render, *, key: str = "") -> Response:
        """Return a page of the fleet's newest version, made once for all who ask for it."""
        state = await self.state()
        frame = frame_of(request, state)
        kept = (request.url.path, request.url.query, key, frame.language, str(frame.part), role_of(request).value)
        async with self._making:
            # While the server is away, each page says for how long.
            if self._kept_of != state.version or len(self._kept) >= MOST_KEPT or frame.away_seconds is not None:
                self._kept, self._kept_of = {}, state.version
            if kept not in self._kept:
                assert state.view is not None
                self._kept[kept] = await run_in_threadpool(render, frame, state.view)
            html = self._kept[kept]
        return HTMLResponse(html, headers={"X-Pi0q-Version": str(state.version)})


def frame_of(request: Request, state: FleetState | None = None, *, still: bool = False) -> Frame:
    """Return what stands around a page for this browser."""
    away = None
    if state and state.away_since is not None:
        away = max(0.0, time.monotonic() - state.away_since)
    path = request.url.path
    return Frame(
        language=choose(request.cookies.get("lang"), request.headers.get("accept-language", "")[:200]),
        here=path,
        back=path,
        version=state.version if state else 0,
        away_seconds=away,
        part=request.headers.get("x-pi0q-part") == "main",
        still=still,
    )


def role_of(request: Request) -> Role:
    """Return who asks."""
    role: Role = request.state.role
    return role


def site_of(request: Request) -> Site:
    """Return what the answers share."""
    site: Site = request.app.state.site
    return site


async def fleet(request: Request) -> Response:
    """The fleet: totals, running jobs, the head of the queue, boxes."""
    site = site_of(request)
    losses = await run_in_threadpool(site.details.losses, (await site.state()))
    return await site.page(request, lambda frame, view: site.screens.fleet(frame, view, losses))


async def queue(request: Request) -> Response:
    """Waiting and held jobs."""
    return await site_of(request).page(request, site_of(request).screens.queue)


async def jobs(request: Request) -> Response:
    """All jobs, filtered."""
    site, query = site_of(request), request.query_params
    state, text = query.get("state", "")[:20], query.get("text", "")[:100]
    return await site.page(request, lambda frame, view: site.screens.jobs(frame, view, state=state, text=text))


async def boxes(request: Request) -> Response:
    """All boxes with all that they announce."""
    return await site_of(request).page(request, site_of(request).screens.boxes)


async def job(request: Request) -> Response:
    """One job."""
    site, job_id = site_of(request), id_of(request)
    state = await site.state()
    detail = await run_in_threadpool(site.details.read, job_id, state)
    said = actions.SAID.get(request.query_params.get("said", ""), "")
    may = role_of(request) is Role.OPERATOR
    buttons = [
        (act, one.button, act == "cancel") for act, one in actions.ACTIONS.items() if may and one.allowed(detail.record)
    ]

    def render(frame: Frame, view: FleetView) -> str:
        words = Words(frame.language)
        content = job_screen.content(detail, words, now_ms=view.now_ms, actions=buttons, said=said)
        return site.screens.job(frame, content, now_ms=view.now_ms)

    return await site.page(request, render)


async def ask(request: Request) -> Response:
    """The question before an act."""
    site, job_id, act = site_of(request), id_of(request), act_of(request)
    need_operator(request)
    detail = await run_in_threadpool(site.details.read, job_id, await site.state())
    frame, one = frame_of(request, still=True), actions.ACTIONS[act]
    if not one.allowed(detail.record):
        return RedirectResponse(f"/jobs/{job_id}?said=late", 303)
    _ = Words(frame.language)
    content = {
        "job": detail.view,
        "act": act,
        "question": _(one.question).format(detail.view.name[:120]),
        "effect": _(one.effect),
        "answer": _(one.answer),
        "token": security.token(site.secret, role_of(request), job_id, act),
    }
    return HTMLResponse(site.screens.confirm(frame, content))


async def do(request: Request) -> Response:
    """The act itself: a POST with the token of its form, from a page of ours."""
    site, job_id, act = site_of(request), id_of(request), act_of(request)
    need_operator(request)
    if not security.is_own_page(request.headers):
        raise HTTPException(403)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > security.LONGEST_FORM:
            raise HTTPException(413)
    try:
        form = {name: values[0] for name, values in parse_qs(body.decode(), max_num_fields=8).items()}
    except ValueError:
        raise HTTPException(400) from None
    if not secrets.compare_digest(
        form.get("token", "").encode(), security.token(site.secret, role_of(request), job_id, act).encode()
    ):
        raise HTTPException(403)
    user = site.logins.users[Role.OPERATOR][0]
    try:
        said = await run_in_threadpool(
            actions.perform, site.details.store, act, job_id, priority=form.get("priority", ""), user=user
        )
    except ValueError:
        raise HTTPException(400) from None
    return RedirectResponse(f"/jobs/{job_id}?said={said}", 303)


async def events(request: Request) -> Response:
    """A stream of version numbers: the newest alone, however slowly a browser reads."""
    site = site_of(request)
    if len(site.followers) >= MOST_FOLLOWERS:
        raise HTTPException(503)
    return StreamingResponse(follow(site), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def follow(site: Site) -> AsyncIterator[str]:
    """Yield the events of one browser until it goes or the page ends."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    leave = site.watcher.listen(lambda: _wake(loop, changed))
    site.followers.add(changed)
    try:
        yield f"retry: 2000\ndata: {site.watcher.state.version}\n\n"
        while not site.ending:
            try:
                await asyncio.wait_for(changed.wait(), PING_SECONDS)
            except asyncio.TimeoutError:
                yield ": still here\n\n"
                continue
            changed.clear()
            yield f"data: {site.watcher.state.version}\n\n"
    finally:
        site.followers.discard(changed)
        leave()


def _wake(loop: asyncio.AbstractEventLoop, changed: asyncio.Event) -> None:
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(changed.set)


async def language(request: Request) -> Response:
    """Keep the language that was chosen and go back."""
    to, back = request.query_params.get("to", ""), request.query_params.get("back", "/")
    # A path of this page: `//host` and `/\host` are other hosts.
    own = back.startswith("/") and back[1:2] not in ("/", "\\") and back.isprintable()
    answer = RedirectResponse(back if own else "/", 303)
    if to in ("en", "zh"):
        answer.set_cookie("lang", to, max_age=365 * 86400, httponly=True, samesite="strict")
    return answer


def id_of(request: Request) -> str:
    """Return the job's id in the address. Raises NotFound for what can be none."""
    found = str(request.path_params["job_id"])
    if not job_ids.is_job_id(found):
        raise NotFound("There is no such job.")
    return found


def act_of(request: Request) -> str:
    """Return the act in the address. Raises 404 for what is none."""
    act = str(request.path_params["act"])
    if act not in actions.ACTIONS:
        raise HTTPException(404)
    return act


def need_operator(request: Request) -> None:
    """Raise 403 for a login that may only look."""
    if role_of(request) is not Role.OPERATOR:
        raise HTTPException(403)


def answer_with(heading: str, text: str, status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return a handler of errors that shows a page."""

    async def handle(request: Request, error: Exception) -> Response:
        html = site_of(request).screens.message(frame_of(request, still=True), heading, text)
        return HTMLResponse(html, status)

    return handle


async def on_http_error(request: Request, error: Exception) -> Response:
    """Show a refusal or an unknown address as a page."""
    assert isinstance(error, HTTPException)
    heading = "No such page" if error.status_code == 404 else "Refused"
    text = "" if error.status_code == 404 else "Nothing was changed."
    return await answer_with(heading, text, error.status_code)(request, error)


def build(site: Site, *, address: str, extra: list[Route] | None = None) -> security.Gate:
    """Return the whole page as an ASGI application. `extra`: more addresses, behind the same password."""
    gone = answer_with("No such job", "It may have been pruned. The list of jobs has all that are there.", 404)
    away = answer_with(
        "The queue can't be read now",
        "Its server does not answer. Jobs keep running; this page shows them again as soon as it does.",
        503,
    )
    app = Starlette(
        routes=[
            Route("/", fleet),
            Route("/queue", queue),
            Route("/jobs", jobs),
            Route("/jobs/{job_id}", job),
            Route("/jobs/{job_id}/{act}", ask),
            Route("/jobs/{job_id}/{act}", do, methods=["POST"]),
            Route("/boxes", boxes),
            Route("/events", events),
            Route("/language", language),
            *(extra or []),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static", follow_symlink=True)),
        ],
        exception_handlers={
            HTTPException: on_http_error,
            NotFound: gone,
            BadRecord: answer_with("A record that cannot be read", "Nothing was changed.", 404),
            Unreadable: away,
            **dict.fromkeys(site.details.errors, away),
            Exception: answer_with(
                "Something went wrong", "The log of `pi0q web` says what. Nothing was changed.", 500
            ),
        },
    )
    app.state.site = site
    return security.Gate(app, site.logins, address=address)
