"""A stand-in for WandB's API: whose key it is, and nothing else."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class StandInWandB:
    """A context manager. Keys that it does not know it refuses as WandB does, with status 200 and no viewer."""

    def __init__(self) -> None:
        #: Key -> user.
        self.keys: dict[str, str] = {}
        #: Answers everything with this status.
        self.status = 200
        #: How often it was asked.
        self.asked = 0
        standin = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                standin.asked += 1
                given = base64.b64decode((self.headers["Authorization"] or "").removeprefix("Basic ")).decode()
                user = standin.keys.get(given.removeprefix("api:"))
                body = json.dumps({"data": {"viewer": {"username": user} if user else None}}).encode()
                self.send_response(standin.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> StandInWandB:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
