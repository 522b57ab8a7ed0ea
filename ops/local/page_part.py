"""The web page as a part of `pi0q up`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pi0q.ops import web_login
from pi0q.ops.local import server as servers

DEFAULT_PORT = 5550
#: What the extra `web` brings.
NEEDED = ("jinja2", "starlette", "uvicorn")


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """The options of `pi0q up` for the page."""

    wanted: bool = True
    #: None for DEFAULT_PORT or the next free one.
    port: int | None = None
    #: Whether an operator may act by it.
    actions: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """The page as it is to be started."""

    port: int
    actions: bool

    @property
    def words(self) -> list[str]:
        """Return the command line after `pi0q`."""
        return ["web", "--port", str(self.port), *(["--actions"] if self.actions else [])]

    @property
    def facts(self) -> dict[str, str]:
        """Return what up.json says of it."""
        return {"web_url": f"http://127.0.0.1:{self.port}", "web_user": web_login.USER}


def plan(home: Path, options: PageOptions, say: Callable[[str], None]) -> Page | None:
    """Return the page to start; None where it is not wanted, or its packages are missing, which is said.

    Creates the password. Raises UsageError for a port that is taken.
    """
    if not options.wanted:
        return None
    if any(find_spec(module) is None for module in NEEDED):
        say("The web page needs packages that are not installed here; pi0q starts without it.")
        say("Fix: pip install 'pi0q[web]', or leave it out: --no-web")
        return None
    port = servers.choose_port(options.port, default=DEFAULT_PORT, option="--web-port")
    if options.port is None and port != DEFAULT_PORT:
        say(f"Port {DEFAULT_PORT} is taken; the web page gets {port}.")
    web_login.password(home / "web.password")
    return Page(port=port, actions=options.actions)
