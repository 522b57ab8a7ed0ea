"""A stand-in for the Hub's pages of accounts: who a token belongs to and what it may read."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StandInAccounts:
    """A context manager. What it does not know by name it refuses."""

    def __init__(self) -> None:
        #: Token -> user.
        self.users: dict[str, str] = {}
        #: Users that may read gated repositories.
        self.accepted: set[str] = set()
        accounts = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                user = accounts.users.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))
                if self.path == "/api/whoami-v2":
                    self.answer(200, {"type": "user", "name": user}) if user else self.answer(401, {"error": "bad"})
                elif self.path.endswith("/auth-check") and user not in accounts.accepted:
                    self.answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
                else:
                    self.answer(200, {"id": "google/paligemma-3b-pt-224", "gated": "manual", "siblings": []})

            def do_HEAD(self) -> None:
                self.answer(200, {})

            def answer(self, status: int, told: Any, more: dict[str, str] | None = None) -> None:
                body = json.dumps(told).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **(more or {})}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> StandInAccounts:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
