"""A stand-in for ModelScope: the part of its API that modelscope-hub lists and reads repositories by, with faults.

    with StandInModelScope() as there:
        sha = there.commit("model", "owner/name", {"config.json": b"{}"})
        ... PI0Q_MODELSCOPE=there.url ...

As the real one does, it tells the SHA-256 and the last commit of every file, answers an unknown revision with an empty
list, pages through datasets, and redirects readers of large files to another host.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.standin_hub import LFS_FROM, HubAnswers, StandInHub

_LIST = re.compile(r"/api/v1/(model|dataset)s/([^/]+/[^/]+)/repo/(files|tree)")
_FILE = re.compile(r"/api/v1/(model|dataset)s/([^/]+/[^/]+)/repo")


class ModelScopeAnswers(HubAnswers):
    """Answers as https://modelscope.cn/api/v1 does."""

    def _answer(self) -> None:
        address = urlsplit(self.path)
        path, query = unquote(address.path), parse_qs(address.query)
        self._forgotten = self.standin.forgotten
        self.standin.agents.add(self.headers.get("User-Agent"))  # type: ignore[attr-defined]
        wanted = query.get("FilePath", [""])[0]
        fault = self.standin.strike(f"{path}/{wanted}" if wanted else path)
        if fault and fault.status:
            self._refuse(fault.status, "", retry_after=fault.retry_after)
        elif path.startswith("/cdn/"):
            self._send(self.standin.blob(path[5:]), {}, fault)
        elif match := _LIST.fullmatch(path):
            self._list_files(match, query)
        elif match := _FILE.fullmatch(path):
            self._read(match, query, wanted)
        else:
            self._refuse(404, "")

    def _files(self, match: re.Match[str], query: Mapping[str, list[str]]) -> tuple[str, dict[str, bytes]] | None:
        """The commit and the files of a revision; None where there is no such repository."""
        repo, sha = self.standin.find(match[1], match[2], query.get("Revision", ["master"])[0])
        return None if repo is None else (sha or "", repo.commits[sha] if sha else {})

    def _list_files(self, match: re.Match[str], query: Mapping[str, list[str]]) -> None:
        found = self._files(match, query)
        if found is None:
            told = {"Code": 10010205001, "Message": "not found", "Success": False}
            return self._json(told, status=404)
        sha, files = found
        entries: list[dict[str, Any]] = [{"Path": "somewhere", "Type": "tree", "Size": 0, "Name": "somewhere"}]
        entries = entries if files else []
        for path, body in sorted(files.items()):
            sha256 = hashlib.sha256(body).hexdigest()
            name, large = path.rpartition("/")[2], len(body) >= LFS_FROM
            entries.append(
                {
                    **{"Path": path, "Name": name, "Type": "blob", "Size": len(body), "IsLFS": large},
                    **{"Sha256": sha256, "Revision": sha, "CommittedDate": 1_760_000_000},
                }
            )
        if match[3] == "tree":
            page, size = (int(query[key][0]) for key in ("PageNumber", "PageSize"))
            entries = entries[(page - 1) * size : page * size]
        told = {"Code": 200, "Data": {"Files": entries or None}, "Message": "success", "Success": True}
        return self._json(told)

    def _read(self, match: re.Match[str], query: Mapping[str, list[str]], path: str) -> None:
        found = self._files(match, query)
        if found is None or path not in found[1]:
            return self._refuse(404, "")
        body = found[1][path]
        if len(body) < LFS_FROM:
            return self._send(body, {}, self.standin.strike(path))
        where = f"{self.standin.store_url}/cdn/{hashlib.sha256(body).hexdigest()}"
        return self._send(b"", {"Location": where}, None, status=302)


class StandInModelScope(StandInHub):
    """The server and what it holds; a context manager."""

    answers = ModelScopeAnswers

    def __init__(self, *, hosts: tuple[str, str] = ("127.0.0.7", "127.0.0.8")) -> None:
        super().__init__(hosts=hosts)
        #: Every User-Agent that was seen.
        self.agents: set[str | None] = set()

    def commit(
        self,
        repo_type: str,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        refs: Iterable[str] = ("master",),
        gated: bool = False,
        private: bool | None = None,
    ) -> str:
        """A new commit, whose id is another than the Hub's would be. Gives it."""
        hub = super().commit(repo_type, repo_id, files, refs=(), gated=gated, private=private)
        repo, _ = self.find(repo_type, repo_id, hub)
        assert repo is not None
        sha = hashlib.sha1(b"ModelScope" + hub.encode()).hexdigest()
        repo.commits[sha] = repo.commits.pop(hub)
        repo.refs |= dict.fromkeys(refs, sha)
        return sha
