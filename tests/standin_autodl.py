"""A stand-in for AutoDL's Container Pro API, with the shapes of its documentation; over real HTTP on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

NEVER = {"Time": "0001-01-01T00:00:00Z", "Valid": False}
OK = {"code": "Success", "msg": ""}
NO_STOCK = {"code": "InternalError", "msg": "所选主机GPU暂无库存", "data": None}


@dataclass
class Account:
    """What the account has, and what was asked of it."""

    token: str = "token-of-the-account"
    assets: int = 50_000
    #: id -> status, thousandths of a yuan an hour, ISO time of its stop.
    containers: dict[str, tuple[str, int, str]] = field(default_factory=dict)
    no_stock: bool = False
    started: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, values: dict[str, Any]) -> Any:
        self.asked.append(path)
        name = path.rpartition("/dev/")[2]
        if name == "wallet/balance" and method == "POST":
            return OK | {"data": {"assets": self.assets, "accumulate": 1000, "voucher_balance": 0}}
        if name == "instance/pro/list" and method == "POST":
            return OK | {"data": {"list": [self._listed(one) for one in self.containers], "max_page": 1}}
        if name == "instance/pro/snapshot" and method == "GET":
            price = self.containers[values["instance_uuid"]][1]
            return OK | {
                "data": {"payg_price": price, "root_password": "secret-of-the-box", "jupyter_token": "secret-too"}
            }
        if name == "instance/pro/power_on" and method == "POST":
            if self.no_stock:
                return NO_STOCK
            self.started.append(values)
            _, price, _ = self.containers[values["instance_uuid"]]
            self.containers[values["instance_uuid"]] = ("running", price, "")
            return OK | {"data": None}
        return {"code": "RequestParameterIsWrong", "msg": path, "data": None}

    def _listed(self, uuid: str) -> dict[str, Any]:
        status, _, stopped = self.containers[uuid]
        return {
            "uuid": uuid, "name": "", "status": status, "status_at": stopped, "start_mode": "gpu",
            "stopped_at": {"Time": stopped, "Valid": True} if stopped else NEVER,
        }  # fmt: skip


@contextmanager
def serve(account: Account) -> Iterator[str]:
    """Serve an account; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._tell("POST", json.loads(body or b"{}"))

        def do_GET(self) -> None:
            self._tell("GET", {key: value[0] for key, value in parse_qs(urlsplit(self.path).query).items()})

        def _tell(self, method: str, values: dict[str, Any]) -> None:
            good = self.headers.get("Authorization") == account.token
            said = account.answer(method, urlsplit(self.path).path, values) if good else {"code": "AuthorizeFailed"}
            body = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
