"""A web page of pi0q that runs, asked without a browser."""

from __future__ import annotations

import base64
import http.client
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from tests.conftest import PATIENCE, Running, Start


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str


@dataclass
class WebPage:
    """`pi0q web` of a test."""

    url: str
    home: Path
    running: Running
    #: Of the two users.
    passwords: dict[str, str] = field(default_factory=dict)

    def login(self, user: str, password: str | None = None) -> dict[str, str]:
        """Return the header that sends a password; left out: the right one."""
        given = self.passwords[user] if password is None else password
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{given}".encode()).decode()}

    def ask(self, path: str, *, user: str = "pi0q", method: str = "GET", body: str = "", **headers: str) -> Answer:
        """Ask as this user; headers take `_` for `-`, and replace those that are there. `user=""`: without a login."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=PATIENCE)
        sent = {**(self.login(user) if user else {}), "Content-Type": "application/x-www-form-urlencoded"}
        sent |= {name.replace("_", "-").title(): value for name, value in headers.items()}
        try:
            # As it stands: a client that tidies the path would hide an attack.
            connection.putrequest(method, path, skip_host="Host" in sent)
            sent["Content-Length"] = str(len(body.encode()))
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders(body.encode())
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode())
        finally:
            connection.close()

    def form_token(self, job_id: str, act: str) -> str:
        """Return the token of the form that asks before an act."""
        match = re.search(
            r'name="token" value="([0-9a-f]{64})"', self.ask(f"/jobs/{job_id}/{act}", user="operator").text
        )
        assert match
        return match[1]

    def act(self, job_id: str, act: str, **form: str) -> Answer:
        """Do it as the operator would in a browser."""
        token = form.pop("token", None) or self.form_token(job_id, act)
        return self.ask(
            f"/jobs/{job_id}/{act}",
            user="operator",
            method="POST",
            body=urlencode({"token": token, **form}),
            origin=self.url,
            sec_fetch_site="same-origin",
        )


def open_web(start: Start, home: Path, *options: str) -> WebPage:
    """Start `pi0q web` on a free port."""
    running = start("web", "--port", "0", *options)
    page = WebPage(running.until("Web page: ").split()[2], home, running)
    for user, name in (("pi0q", "web.password"), ("operator", "web-actions.password")):
        if (home / name).exists():
            page.passwords[user] = (home / name).read_text(encoding="utf-8").strip()
    return page
