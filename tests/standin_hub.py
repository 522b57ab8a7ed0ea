"""A stand-in for the Hugging Face Hub: its protocol of reading and writing repositories, on the loopback, with faults.

    with StandInHub() as hub:
        sha = hub.commit("dataset", "owner/name", {"meta/info.json": b"{}"}, refs=("main", "v3.0"))
        ... HF_ENDPOINT=hub.url ...
        hub.files_read()
        with hub.mirror() as mirror, StandInProxy() as proxy: ...

Large files are redirected to a second address with X-Linked-* headers, as the real one does with LFS.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from typing_extensions import Self

#: The only token the stand-in knows.
TOKEN = "hf_of_the_standin"
#: Files from this size on are stored as LFS, in bytes.
LFS_FROM = 4096

_API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+?)(?:/(revision|tree|refs)(?:/(.+))?)?")
_AUTH = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)/auth-check")
_COMMIT = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)/(preupload|commit|lfs-files/batch)(?:/.+)?")
_STORED = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)/lfs-files")
_LFS = re.compile(r"/(?:datasets/)?[^/]+/[^/]+\.git/info/lfs/objects/batch")
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came in, and the status it got."""

    method: str
    path: str
    #: The Range header.
    range: str | None
    status: int
    #: The Authorization header.
    authorization: str | None = None


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with requests whose path matches."""

    #: Regular expression, searched for in the path.
    path: str
    #: Answer with this status; None: answer, but only with the first part of the file.
    status: int | None = None
    #: X-Error-Code.
    code: str | None = None
    #: Retry-After.
    retry_after: str | None = None
    #: How much of the file comes before the cut.
    part: float = 0.5
    #: All of the file comes, with a byte that is another in its middle.
    corrupt: bool = False
    #: All of the file comes, whatever range was asked for.
    whole: bool = False
    #: Times it strikes.
    times: int = 1_000_000
    #: Set when that part of the file is sent; the connection then stays open until `resume` is set.
    halfway: threading.Event | None = None
    resume: threading.Event = field(default_factory=threading.Event)


@dataclass(kw_only=True)
class _Repo:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    #: Large files that count as the account's storage.
    stored: set[str] = field(default_factory=set)


class StandInHub:
    """The server and what it holds; a context manager."""

    #: How it answers.
    answers: type[HubAnswers]

    def __init__(self, *, hosts: tuple[str, str] = ("127.0.0.1", "127.0.0.2")) -> None:
        self.requests: list[Request] = []
        #: How often someone only wanted to know whether it is there; not among the requests.
        self.probes = 0
        self.faults: list[Fault] = []
        #: Tokens of accounts that have accepted no terms.
        self.strangers: set[str] = set()
        #: Who TOKEN is of; it may write below this name.
        self.account = "you"
        #: Bytes of files that were written to a connection; each is counted before its client can have it.
        self.served = 0
        #: How often all of it was forgotten: what an older request still writes is not counted.
        self.forgotten = 0
        self._repos: dict[tuple[str, str], _Repo] = {}
        self._blobs: dict[str, bytes] = {}
        self._lock = threading.Lock()
        hub = self

        class Handler(self.answers):  # type: ignore[name-defined, misc]
            standin = hub

        # The Hub itself and the place that it sends readers of large files to: another host, or huggingface_hub
        # would take that one's answers for the Hub's.
        self._held = [socket.socket() for _ in hosts]
        self._servers = [_serve(host, held, Handler) for host, held in zip(hosts, self._held, strict=True)]
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in self._servers
        ]
        self.url, self.store_url = (
            f"http://{one.server_address[0]!s}:{one.server_address[1]}" for one in self._servers
        )
        self._open = False

    def __enter__(self) -> Self:
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.daemon_threads = True
            thread.start()
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        for held in self._held:
            held.close()

    def close(self) -> None:
        """Cuts the network: from now on connections are refused. May be called twice."""
        for fault in self.faults:
            fault.resume.set()
        for server, thread in zip(self._servers, self._threads, strict=True):
            if self._open:
                server.shutdown()
                thread.join()
            server.server_close()
        self._open = False

    def commit(
        self,
        repo_type: str,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        refs: Iterable[str] = ("main",),
        gated: bool = False,
        private: bool | None = None,
    ) -> str:
        """A new commit with exactly these files; the refs name it from now on. Gives its SHA."""
        repo = self._repos.setdefault((repo_type, repo_id), _Repo())
        repo.gated = gated
        repo.private = repo.private if private is None else private
        repo.stored |= {hashlib.sha256(body).hexdigest() for body in files.values() if len(body) >= LFS_FROM}
        told = json.dumps([repo_type, repo_id, {name: _oid(body) for name, body in files.items()}])
        sha = hashlib.sha1(told.encode()).hexdigest()
        repo.commits[sha] = dict(files)
        repo.refs |= dict.fromkeys(refs, sha)
        self._blobs |= {hashlib.sha256(body).hexdigest(): body for body in files.values()}
        return sha

    def append(self, repo_type: str, repo_id: str, lines: Iterable[Mapping[str, Any]]) -> str:
        """A commit as it is sent: what it names is changed, the rest stays. Gives its SHA."""
        repo, sha = self.find(repo_type, repo_id, "main")
        files = dict(repo.commits[sha]) if repo and sha else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self._blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        return self.commit(repo_type, repo_id, files)

    def stored(self, repo_type: str, repo_id: str) -> set[str]:
        """SHA-256 of the large files that count as storage, whether a commit shows them or not."""
        return self._repos[(repo_type, repo_id)].stored

    def is_private(self, repo_type: str, repo_id: str) -> bool:
        return self._repos[(repo_type, repo_id)].private

    def files(self, repo_type: str, repo_id: str) -> dict[str, bytes]:
        """What main holds."""
        repo, sha = self.find(repo_type, repo_id, "main")
        return dict(repo.commits[sha]) if repo and sha else {}

    def keep(self, body: bytes) -> None:
        self._blobs[hashlib.sha256(body).hexdigest()] = body

    def has(self, name: str) -> bool:
        return name in self._blobs

    def mirror(self) -> StandInHub:
        """Another address with the same content, which nobody should show a token; not yet open."""
        other = StandInHub(hosts=("127.0.0.4", "127.0.0.5"))
        other._repos, other._blobs = self._repos, self._blobs
        return other

    def forget(self) -> None:
        """Empties the log of requests and the count of bytes."""
        with self._lock:
            self.requests.clear()
            self.served = 0
            self.forgotten += 1

    def tokens(self) -> set[str | None]:
        """Every Authorization header that was seen."""
        return {one.authorization for one in self.requests} - {None}

    @staticmethod
    def digest(body: bytes) -> str:
        """What a file of this content is called among the cache's blobs."""
        return hashlib.sha256(body).hexdigest() if len(body) >= LFS_FROM else _oid(body)

    def count(self, size: int, forgotten: int) -> None:
        with self._lock:
            self.served += size if forgotten == self.forgotten else 0

    def files_read(self) -> list[str]:
        """Paths of the files whose content was asked for, sorted; one read twice is there twice."""
        found = [_RESOLVE.fullmatch(one.path) for one in self.requests if one.method in ("GET", "HEAD")]
        heads = [match[4] for match in found if match]
        return sorted(heads)

    def downloads(self) -> list[Request]:
        """Requests that were answered with (a part of) a file's content."""
        return [
            one
            for one in self.requests
            if one.method == "GET" and one.status in (200, 206) and not one.path.startswith("/api/")
        ]

    def log(self, request: Request) -> None:
        with self._lock:
            if (request.method, request.path) == ("HEAD", "/"):
                self.probes += 1
            else:
                self.requests.append(request)

    def strike(self, path: str) -> Fault | None:
        """The fault that this request runs into."""
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def find(self, repo_type: str, repo_id: str, revision: str) -> tuple[_Repo | None, str | None]:
        repo = self._repos.get((repo_type, repo_id))
        if repo is None:
            return None, None
        sha = repo.refs.get(revision, revision)
        return repo, sha if sha in repo.commits else None

    def blob(self, name: str) -> bytes:
        return self._blobs[name]


class _Server(ThreadingHTTPServer):
    #: Who comes while the tests are kept waiting is not turned away.
    request_queue_size = 128


def _serve(host: str, held: socket.socket, handler: type[BaseHTTPRequestHandler]) -> _Server:
    """A server on a free port, which `held` keeps for as long as it is open: a closed server's is nobody else's."""
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host, 0))
    return _Server(held.getsockname(), handler)


def _oid(body: bytes) -> str:
    """As git names a blob."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _entry(body: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"size": len(body), "oid": _oid(body)}
    if len(body) >= LFS_FROM:
        digest = hashlib.sha256(body).hexdigest()
        entry["lfs"] = {"size": len(body), "oid": digest, "sha256": digest, "pointerSize": 130}
    return entry


def _mode(file: Mapping[str, Any]) -> dict[str, Any]:
    """How a file is to be sent."""
    mode = "lfs" if file["size"] >= LFS_FROM else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}


class HubAnswers(BaseHTTPRequestHandler):
    standin: StandInHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the log is `StandInHub.requests`."""

    def _answer(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        self._forgotten = self.standin.forgotten
        # All of it, whatever comes of it: what is left would be taken for the next request.
        self._sent = self._body()
        fault = self.standin.strike(path)
        told = self.headers.get("Authorization")
        if fault and fault.status:
            self._refuse(fault.status, fault.code or "", retry_after=fault.retry_after)
        elif told and told.partition(" ")[2] not in {TOKEN, *self.standin.strangers} and not path.startswith("/cdn/"):
            self._refuse(401, "", message="Invalid credentials in Authorization header")
        elif self.command in ("POST", "PUT"):
            self._take(path)
        elif path == "/api/whoami-v2":
            self._whoami()
        elif match := _AUTH.fullmatch(path):
            self._check(match)
        elif match := _STORED.fullmatch(path):
            self._list(match)
        elif match := _API.fullmatch(path):
            self._tell(match, parse_qs(address.query))
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match, fault)
        elif path.startswith("/cdn/"):
            self._send(self.standin.blob(path[5:]), {"ETag": f'"{path[5:]}"'}, fault)
        else:
            self._refuse(404, "")

    def _tell(self, match: re.Match[str], query: dict[str, list[str]]) -> None:
        repo_type, repo_id, verb, revision = match.groups()
        repo, sha = self.standin.find(repo_type, repo_id, revision or "main")
        if repo is None:
            return self._refuse(404 if self._known() else 401, "RepoNotFound")
        if sha is None:
            return self._refuse(404, "RevisionNotFound")
        if verb == "refs":
            named = [{"name": name, "ref": f"refs/{name}", "targetCommit": at} for name, at in repo.refs.items()]
            tags = [one for one in named if one["name"] != "main"]
            return self._json({"branches": [one for one in named if one not in tags], "converts": [], "tags": tags})
        entries = {name: _entry(body) for name, body in repo.commits[sha].items()}
        if verb == "tree":
            tree = [{"type": "file", "path": name, **entry} for name, entry in entries.items()]
            return self._send(json.dumps(tree).encode(), {"Content-Type": "application/json"}, None)
        siblings = [{"rfilename": name} for name in entries]
        if "blobs" in query:
            siblings = [{"rfilename": name, "blobId": entry.pop("oid"), **entry} for name, entry in entries.items()]
        info = {
            "id": repo_id,
            "sha": sha,
            "siblings": siblings,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "author": repo_id.partition("/")[0],
            "createdAt": "2026-01-01T00:00:00.000Z",
            "lastModified": "2026-01-01T00:00:00.000Z",
        }
        return self._send(json.dumps(info).encode(), {"Content-Type": "application/json"}, None)

    def _resolve(self, match: re.Match[str], fault: Fault | None) -> None:
        repo_type = "dataset" if match[1] else "model"
        repo, sha = self.standin.find(repo_type, match[2], match[3])
        if repo is None:
            return self._refuse(404 if self._known() else 401, "RepoNotFound")
        if repo.gated and not self._known():
            return self._refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        if sha is None:
            return self._refuse(404, "RevisionNotFound")
        if match[4] not in repo.commits[sha]:
            return self._refuse(404, "EntryNotFound")
        body = repo.commits[sha][match[4]]
        entry, headers = _entry(body), {"X-Repo-Commit": sha}
        if "lfs" in entry:
            digest = entry["lfs"]["sha256"]
            headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(body))}
            headers |= {"Location": f"{self.standin.store_url}/cdn/{digest}", "ETag": '"pointer"'}
            return self._send(b"", headers, None, status=302)
        return self._send(body, headers | {"ETag": f'"{entry["oid"]}"'}, fault)

    def _check(self, match: re.Match[str]) -> None:
        """Whether whoever asks may read the repository."""
        repo, _ = self.standin.find(match[1], match[2], "main")
        if repo is None:
            return self._refuse(404 if self._known() else 401, "RepoNotFound")
        if repo.gated and not self._known():
            return self._refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        return self._json({})

    # -- writing ------------------------------------------------------------------------------------

    def _whoami(self) -> None:
        told = (self.headers.get("Authorization") or "").partition(" ")[2]
        if not told:
            return self._refuse(401, "", message="Invalid username or password.")
        name = self.standin.account if told == TOKEN else "stranger"
        token = {"displayName": "pi0q", "role": "write" if told == TOKEN else "read"}
        return self._json({"type": "user", "name": name, "orgs": [], "auth": {"accessToken": token}})

    def _take(self, path: str) -> None:
        """Part of a commit: each step as huggingface_hub makes it."""
        if self.command == "PUT" and path.startswith("/lfs/"):
            if hashlib.sha256(self._sent).hexdigest() != path[5:]:
                return self._refuse(400, "")
            self.standin.keep(self._sent)
            return self._send(b"", {}, None)
        if not self._known():
            return self._refuse(403 if self.headers.get("Authorization") else 401, "")
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(self._sent))
        if match := _LFS.fullmatch(path):
            return self._json(
                {"transfer": "basic", "objects": [self._slot(one) for one in json.loads(self._sent)["objects"]]}
            )
        match = _COMMIT.fullmatch(path)
        if match is None or not self._may_write(match[2]):
            return self._refuse(404 if match is None else 403, "")
        if match[3] == "preupload":
            return self._json({"files": [_mode(one) for one in json.loads(self._sent)["files"]]})
        if match[3] == "lfs-files/batch":
            self.standin.stored(match[1], match[2]).difference_update(json.loads(self._sent)["deletions"]["sha"])
            return self._json({})
        lines = [json.loads(line) for line in self._sent.splitlines() if line]
        based = next((line["value"].get("parentCommit") for line in lines if line["key"] == "header"), None)
        if based and based != self.standin.find(match[1], match[2], "main")[1]:
            return self._refuse(412, "", message="A commit has happened since. Please refresh and try again.")
        sha = self.standin.append(match[1], match[2], lines)
        url = f"{self.standin.url}/{match[2]}/commit/{sha}"
        return self._json({"success": True, "commitOid": sha, "commitUrl": url})

    def _list(self, match: re.Match[str]) -> None:
        """The large files that count as storage; each under a name of some commit that had it."""
        repo, _ = self.standin.find(match[1], match[2], "main")
        assert repo is not None
        names = {_digest(body): name for files in repo.commits.values() for name, body in files.items()}
        told = {"pushedAt": "2026-01-01T00:00:00.000Z", "size": 1}
        self._json([{"fileOid": sha, "oid": sha, "filename": names[sha], **told} for sha in sorted(repo.stored)])

    def _create(self, asked: dict[str, Any]) -> None:
        repo_id = f"{asked.get('organization') or self.standin.account}/{asked['name']}"
        repo_type = asked.get("type") or "model"
        if not self._may_write(repo_id):
            return self._refuse(403, "", message="You don't have the rights to create a model under this namespace")
        if self.standin.find(repo_type, repo_id, "main")[0]:
            return self._json({"error": "it is there", "url": f"{self.standin.url}/{repo_id}"}, status=409)
        self.standin.commit(
            repo_type, repo_id, {}, private=asked.get("visibility") == "private" or bool(asked.get("private"))
        )
        return self._json({"name": repo_id, "url": f"{self.standin.url}/{repo_id}"})

    def _slot(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Where to put an LFS file; no actions for one that is here."""
        if self.standin.has(asked["oid"]):
            return {"oid": asked["oid"], "size": asked["size"]}
        put = {"href": f"{self.standin.store_url}/lfs/{asked['oid']}"}
        return {"oid": asked["oid"], "size": asked["size"], "actions": {"upload": put}}

    def _may_write(self, repo_id: str) -> bool:
        return repo_id.partition("/")[0] == self.standin.account

    def _json(self, told: object, *, status: int = 200) -> None:
        self._send(json.dumps(told).encode(), {"Content-Type": "application/json"}, None, status=status)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _refuse(self, status: int, code: str, *, message: str = "", retry_after: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, "Retry-After": retry_after or ""}
        self._send(b"", {name: value for name, value in headers.items() if value}, None, status=status)

    def _send(self, body: bytes, headers: Mapping[str, str], fault: Fault | None, *, status: int = 200) -> None:
        wanted = self.headers.get("Range")
        if wanted and status == 200 and not (fault and fault.whole):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            body, status = body[start:], 206 if start < len(body) else 416
        # Written down before the client can see the answer, so that a test that has it finds it here.
        self.standin.log(
            Request(
                method=self.command,
                path=unquote(urlsplit(self.path).path),
                range=wanted,
                status=status,
                authorization=self.headers.get("Authorization"),
            )
        )
        if fault and fault.corrupt and body:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Accept-Ranges": "bytes"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is None or fault.corrupt or fault.whole:
            self._write(body)
            return
        cut = int(len(body) * fault.part)
        self._write(body[:cut])
        if fault.halfway is not None:
            fault.halfway.set()
            fault.resume.wait()
            self._write(body[cut:])
        self.close_connection = True

    def _write(self, data: bytes) -> None:
        # A client that was killed hangs up.
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(data), 65536):
                if not self.path.startswith("/api/"):
                    self.standin.count(len(data[start : start + 65536]), self._forgotten)
                self.wfile.write(data[start : start + 65536])
            self.wfile.flush()


StandInHub.answers = HubAnswers


class StandInProxy:
    """A proxy as `/etc/network_turbo` names one, for plain HTTP; a context manager."""

    def __init__(self) -> None:
        #: Addresses that were asked for.
        self.asked: list[str] = []
        proxy = self

        class Handler(_Forward):
            standin = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> StandInProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Forward(BaseHTTPRequestHandler):
    standin: StandInProxy

    def do_GET(self) -> None:
        self.standin.asked.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        there = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
            there.request(self.command, self.path.partition(address.netloc)[2], body or None, headers)
            answer = there.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            while data := answer.read1(65536):
                self.wfile.write(data)
        finally:
            there.close()

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the log is `StandInProxy.asked`."""
