"""A stand-in for WandB: whose key it is, and the runs that real clients log or sync to it, row by row.

with StandInWandB() as wandb:
    wandb.keys["…"] = "ada"
    ... WANDB_BASE_URL=wandb.url, WANDB_API_KEY=… ...
    wandb.steps("pi0q-a1")
"""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any

PROJECT = {"id": "P1", "name": "p", "entity": {"id": "E1", "name": "ada"}}
VERSIONS = {"cliVersionInfo": {"max_cli_version": "99.0.0", "min_cli_version": "0.0.1"}, "features": []}


class StandInWandB:
    """A context manager. Keys that it does not know it refuses as WandB does, with status 200 and no viewer."""

    def __init__(self, *, host: str = "127.0.0.1") -> None:
        #: Key -> user.
        self.keys: dict[str, str] = {}
        #: Answers everything with this status.
        self.status = 200
        #: How often it was asked.
        self.asked = 0
        #: Run -> its rows, as they came.
        self.runs: dict[str, list[Any]] = {}
        #: Runs that their user removed.
        self.deleted: set[str] = set()
        self.server = ThreadingHTTPServer((host, 0), _handler(self))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://{host}:{self.server.server_address[1]}"

    def __enter__(self) -> StandInWandB:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def steps(self, run: str) -> list[int]:
        """The steps of a run's rows, in their order there."""
        return [int(row["_step"]) for row in self.runs.get(run, [])]

    def remove(self, run: str) -> None:
        """As its user does on the page: its id can't be had again."""
        self.runs.pop(run, None)
        self.deleted.add(run)

    def take(self, run: str, files: Mapping[str, Any]) -> None:
        """Part of a file stream: rows from an offset on, over those that are there."""
        if part := files.get("wandb-history.jsonl"):
            rows = [json.loads(line) for line in part["content"]]
            self.runs.setdefault(run, [])[part["offset"] : part["offset"] + len(rows)] = rows

    def answer(self, query: str, told: Mapping[str, Any], user: str | None) -> dict[str, Any]:
        """What GraphQL says."""
        run = str(told.get("name") or "")
        if "upsertBucket" in query:
            new = run not in self.runs
            rows = self.runs.setdefault(run, [])
            bucket = {"id": "B1", "name": run, "displayName": run, "description": "", "config": "{}", "sweepName": None,
                      "project": PROJECT, "historyLineCount": len(rows)}  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": new}}
        if "historyTail" in query:
            return {"model": {**PROJECT, "bucket": self._resumed(run)}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/up/{name}"} for name in told.get("files", [])]
            return {"createRunFiles": {"runID": "B1", "uploadHeaders": [], "files": files}}
        return {"viewer": {"username": user, "entity": user, "id": "U1", "flags": "{}", "teams": {"edges": []}}
                if user else None, "serverInfo": VERSIONS}  # fmt: skip

    def _resumed(self, run: str) -> dict[str, Any] | None:
        if run not in self.runs:
            return None
        rows = self.runs[run]
        return {"name": run, "displayName": run, "summaryMetrics": "{}", "config": "{}", "tags": [], "jobType": "train",
                "logLineCount": 0, "eventsLineCount": 0, "historyLineCount": len(rows), "eventsTail": "[]",
                "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]),
                "wandbConfig": '{"t": {"value": 1}}'}  # fmt: skip


def _chunks(file: BufferedIOBase) -> bytes:
    sent = b""
    while size := int(file.readline(), 16):
        sent += file.read(size)
        file.readline()
    file.readline()
    return sent


def _handler(standin: StandInWandB) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            sent = self._sent()
            standin.asked += 1
            given = base64.b64decode((self.headers["Authorization"] or "").removeprefix("Basic ")).decode()
            user = standin.keys.get(given.removeprefix("api:"))
            told = json.loads(sent or b"{}")
            if standin.status != 200:
                self._send({}, standin.status)
            elif "file_stream" in self.path:
                standin.take(self.path.split("/")[-2], told.get("files") or {})
                self._send({"exitcode": None, "limits": {}})
            elif str((told.get("variables") or {}).get("name")) in standin.deleted and "upsert" in told["query"]:
                why = "run was previously created and deleted; try a new run name"
                self._send({"errors": [{"message": why}], "data": {"upsertBucket": None}}, 409)
            else:
                self._send({"data": standin.answer(told.get("query", ""), told.get("variables") or {}, user)})

        def do_PUT(self) -> None:
            self._sent()
            self._send({})

        def do_GET(self) -> None:
            self._send({})

        do_HEAD = do_GET

        def _sent(self) -> bytes:
            chunked = self.headers.get("Transfer-Encoding") == "chunked"
            sent = _chunks(self.rfile) if chunked else self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(sent) if self.headers.get("Content-Encoding") == "gzip" else sent

        def _send(self, told: object, status: int = 200) -> None:
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    return Handler
