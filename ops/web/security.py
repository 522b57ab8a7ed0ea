"""What stands before every answer of the page: host, password, headers; and the check of requests that change jobs."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pi0q.ops.web_login import LOOPBACK, host_of

#: Everything comes from the page's own host; nothing is inline.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # `no-referrer` would make a browser send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: Seconds before a wrong password is answered.
WRONG_SECONDS = 0.5
#: Bytes of a form at the most.
LONGEST_FORM = 4096


class Role(str, Enum):
    """What a login may do."""

    VIEWER = "viewer"
    #: May cancel, hold, release, save and change priorities.
    OPERATOR = "operator"


@dataclass(frozen=True, kw_only=True)
class Logins:
    """User and password of each role; without those of OPERATOR the page changes nothing."""

    users: Mapping[Role, tuple[str, str]]

    def role_of(self, authorization: str) -> Role | None:
        """Return the role of an Authorization header; None for a wrong one. Takes as long for each wrong one."""
        scheme, _, encoded = authorization.partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True) if scheme.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            given = b""
        found = None
        for role, (user, password) in self.users.items():
            if hmac.compare_digest(_digest(given), _digest(f"{user}:{password}".encode())):
                found = role
        return found


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


class Gate:
    """ASGI wrapper: refuses foreign hosts and wrong passwords; puts `role` into the request's state; adds HEADERS."""

    def __init__(self, app: ASGIApp, logins: Logins, *, address: str) -> None:
        self.app, self.logins, self.local = app, logins, address in LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            # No page opens a web socket.
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        if self.local and host_of(headers.get("host", "")) not in LOOPBACK:
            # A page of another site can make a browser ask by DNS rebinding.
            refused = PlainTextResponse("Refused: this page answers to 127.0.0.1 and localhost only.\n", 403)
            await refused(scope, receive, with_headers)
            return
        given = headers.get("authorization", "")
        role = self.logins.role_of(given)
        if role is None:
            if given:
                await asyncio.sleep(WRONG_SECONDS)
            challenge = {"WWW-Authenticate": 'Basic realm="pi0q", charset="UTF-8"'}
            await PlainTextResponse("The password of this page is needed.\n", 401, challenge)(
                scope, receive, with_headers
            )
            return
        scope.setdefault("state", {})["role"] = role
        await self.app(scope, receive, with_headers)


def token(secret: bytes, role: Role, job_id: str, act: str) -> str:
    """Return the token of one form: another site can't read it, and it is good for this act on this job alone."""
    return hmac.new(secret, f"{role.value}:{job_id}:{act}".encode(), hashlib.sha256).hexdigest()


def is_own_page(headers: Headers) -> bool:
    """Return whether a request came from a page of ours, as far as a browser says; True where nothing is said."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        return False
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc == headers.get("host", "")
    except ValueError:
        return False
