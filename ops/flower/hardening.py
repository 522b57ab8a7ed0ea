"""Close what Flower leaves open: pages without a password, foreign Host headers, frames of other sites.

Flower answers /metrics and /healthcheck to anyone, whatever name the request came for (a page of another site can make
a browser ask by DNS rebinding), and lets other sites put its buttons into a frame.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pi0q.ops.web_login import LOOPBACK, host_of

if TYPE_CHECKING:
    from tornado.web import RequestHandler

#: Flower's pages hold inline scripts and styles, and load everything from themselves.
HEADERS = {
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'self'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


#: Asks before the two buttons that end a job for good; Flower itself acts at the first click.
CONFIRM = b"""<script>
document.addEventListener("click", (event) => {
  if (!event.target.matches("#task-terminate, #task-revoke")) return;
  if (confirm("End this job for good? What it saved stays.")) return;
  event.stopImmediatePropagation();
  event.preventDefault();
}, true);
</script>"""


#: Stands on every page of Flower, which knows neither cards nor what a job waits for.
LINK = b'<p style="margin:1em"><a href="%s">GPUs, queue, curves: the page of pi0q</a></p>'


def harden(
    base: type[RequestHandler],
    always_closed: tuple[type[RequestHandler], ...],
    *,
    address: str,
    own_page: Callable[[], str],
) -> None:
    """Change Flower's handlers, once a process: `base` is their common class.

    Every answer carries HEADERS, every page links to pi0q's own page (`own_page` gives its address, "" where it is not
    up), and the page of a task asks before it ends a job. While Flower listens on the loopback address a request for
    another host is refused (403), and `always_closed` (metrics, health check) ask for the password as every page does.
    """
    # Installed with the extra `flower` only; `pi0q flower` names the missing extra.
    from tornado.web import HTTPError, StaticFileHandler

    closed = (*always_closed,)
    set_default_headers: Callable[[Any], None] = base.set_default_headers
    local = address in LOOPBACK

    def with_headers(handler: Any) -> None:
        set_default_headers(handler)
        for name, value in HEADERS.items():
            handler.set_header(name, value)

    def prepare(handler: Any) -> None:
        if local and host_of(handler.request.host) not in LOOPBACK:
            raise HTTPError(403, "Refused: this Flower answers to 127.0.0.1 and localhost only.")
        if isinstance(handler, closed):
            # Raises 401 without the right password.
            handler.get_current_user()

    _add_to_pages(base, own_page)
    base.set_default_headers = with_headers  # type: ignore[method-assign, assignment]
    base.prepare = prepare  # type: ignore[method-assign, assignment]
    StaticFileHandler.set_extra_headers = lambda handler, _: handler.set_header(  # type: ignore[method-assign, assignment]
        "X-Content-Type-Options", "nosniff"
    )


def _add_to_pages(base: type[RequestHandler], own_page: Callable[[], str]) -> None:
    """Let every page end with the link to pi0q's own page, and a task's ask before it ends a job."""
    render_string: Callable[..., bytes] = base.render_string

    def with_more(handler: Any, template_name: str, **values: Any) -> bytes:
        more = CONFIRM if template_name == "task.html" else b""
        if url := own_page():
            more += LINK % html.escape(url, quote=True).encode()
        return render_string(handler, template_name, **values).replace(b"</body>", more + b"</body>")

    base.render_string = with_more  # type: ignore[method-assign, assignment]
