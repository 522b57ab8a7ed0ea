"""A stand-in for SwanLab's server: whose key it is, and the runs that the real `swanlab` sends, number by number.

with StandInSwanLab() as swanlab:
    swanlab.keys["…"] = "ada"
    ... SWANLAB_API_HOST=swanlab.url, SWANLAB_WEB_HOST=swanlab.url, SWANLAB_API_KEY=… ...
    swanlab.steps("pi0q-a1")
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

CREATED = "2026-11-30T00:00:00.000Z"


class StandInSwanLab:
    """A context manager. It knows one project of each name, and keeps of a run its numbers, state and description."""

    def __init__(self) -> None:
        #: Key -> user.
        self.keys: dict[str, str] = {}
        #: Answers everything but logins with this status, where it is not 200.
        self.status = 200
        #: Run -> its numbers as they came: (key, step, value).
        self.runs: dict[str, list[tuple[str, int, float]]] = {}
        #: Run -> what it was made with; run -> its states, the newest last.
        self.made: dict[str, dict[str, Any]] = {}
        self.states: dict[str, list[str]] = {}
        #: Projects that were made.
        self.projects: set[str] = set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> StandInSwanLab:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def steps(self, run: str, key: str = "train/loss") -> list[int]:
        """The steps of one curve of a run, in the order in which they came."""
        return [step for name, step, _ in self.runs.get(run, []) if name == key]

    def answer(self, method: str, path: list[str], told: dict[str, Any]) -> tuple[int, Any]:
        """Status and answer to what lies below /api."""
        match (method, *path):
            case ("GET", "project", user, name):
                if name not in self.projects:
                    return 404, {"code": "404", "message": "no project"}
                seen = {"visibility": "PRIVATE", "group": {"username": user}, "_count": {"experiments": 0}}
                return 200, {"cuid": f"P-{name}", "name": name, "version": 1, "path": f"/{user}/{name}", **seen}
            case ("POST", "projects", _):
                self.projects.add(told["name"])
                return 201, {}
            case ("POST", "project", _, _, "experiment"):
                run, new = told["cuid"], told["cuid"] not in self.runs
                self.runs.setdefault(run, [])
                self.made.setdefault(run, told)
                self.states.setdefault(run, []).append("RUNNING")
                return 201 if new else 200, {"cuid": run, "name": told["name"], "slug": run, "createdAt": CREATED}
            case ("GET", "house", "metrics", "summaries", _, run):
                last: dict[str, int] = {}
                for key, step, _ in self.runs[run]:
                    last[key] = max(step, last.get(key, -1))
                return 200, {
                    "scalar": [{"key": key, "step": step} for key, step in last.items()],
                    "media": [],
                    "log": [],
                }
            case ("POST", "house", "metrics"):
                if told["type"] == "scalar":
                    rows = [(one["key"], one["index"], one["data"]) for one in told["metrics"]]
                    self.runs[told["experimentId"]] += rows
                return 200, {}
            case ("PUT", "project", _, _, "runs", run, "state"):
                self.states[run].append(told["state"])
        return 200, {}


def _handler(standin: StandInSwanLab) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = [part for part in urlsplit(self.path).path.split("/") if part][1:]
            if path == ["login", "api_key"]:
                user = standin.keys.get(self.headers.get("authorization") or "")
                good = {"sid": "s1", "expiredAt": "2099-01-01T00:00:00.000Z", "userInfo": {"username": user}}
                self._send(200 if user else 401, good if user else {"code": "401", "message": "no such key"})
            elif standin.status != 200:
                self._send(standin.status, {"code": str(standin.status), "message": "not now"})
            elif "sid=s1" not in (self.headers.get("Cookie") or ""):
                self._send(401, {"code": "401", "message": "not logged in"})
            else:
                self._send(*standin.answer(self.command, path, json.loads(sent or b"{}")))

        do_GET = do_PUT = do_POST

        def _send(self, status: int, told: object) -> None:
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    return Handler
