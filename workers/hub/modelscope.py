"""ModelScope as another place of public files: what of a repository can come from there, verified by what. Pure.

A repository of the same name may hold other contents there. A file counts as the Hub's where its size and SHA-256
are; without the Hub's list, ModelScope's own commit is taken, which the job's record then says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pi0q.workers.hub import snapshots
from pi0q.workers.hub.blobs import Blob
from pi0q.workers.hub.errors import WrongBytes
from pi0q.workers.hub.requirements import PALIGEMMA, TOKENIZER_FILES, Fetch

#: Files of one repository that are looked at.
MOST_FILES = 200_000
#: The ungated copy of PaliGemma.
TOKENIZER_REPO = "AI-ModelScope/paligemma-3b-pt-224"
#: Commit of google/paligemma-3b-pt-224 on the Hub that these are the tokenizer's files of.
TOKENIZER_COMMIT = "35e4f46485b4d07967e7e9935bc3786aad50687c"
#: SHA-256 and bytes of each file that a tokenizer takes of it.
TOKENIZER = {
    "added_tokens.json": ("7d0bad90030d638a4bf89a82e91206e25f1fbe0012f14bca21666a64b643bc49", 24),
    "config.json": ("e00c72cdff16296bf1229c3267b99f5247d8c740cae84336866338d64fa7918f", 1_027),
    "special_tokens_map.json": ("5ef37093ae4236587b6e8266acb815b46e2db8ce656c66552bfa574d32880405", 607),
    "tokenizer.json": ("ef6773c135b77b834de1d13c75a4c98ab7a3684ffd602d1831e1f1bf5467c563", 17_549_604),
    "tokenizer.model": ("8986bb4f423f07f8c7f70d0dbe3526fb2316056c17bae71b1ea975e77a168fc6", 4_264_023),
    "tokenizer_config.json": ("3259402b1d1802e02417d7bff75a889ec61d359d15be6050a957b307c48edbbe", 39_968),
}
#: Files that a copy of it may lack: tokenizer.json says the same.
OPTIONAL = frozenset({"added_tokens.json"})
_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file in ModelScope's list."""

    size: int
    #: "" where the list does not say.
    sha256: str
    #: The commit that changed it last; "" where the list does not say.
    commit: str
    #: When that was, seconds since 1970.
    at: int


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a fetch takes, as someone else than ModelScope says: the Hub, or pi0q itself."""

    sha: str
    ref: str | None
    files: Mapping[str, Blob]
    #: Repository on ModelScope, where it has another name there.
    repo_id: str = ""

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Given:
        files = {path: Blob(name=name, size=size) for path, (name, size) in told["files"].items()}
        return cls(sha=told["sha"], ref=told["ref"], files=files, repo_id=told["repo_id"])

    def without(self, paths: frozenset[str]) -> Given:
        return replace(self, files={path: blob for path, blob in self.files.items() if path not in paths})

    def to_json(self) -> dict[str, Any]:
        files = {path: [blob.name, blob.size] for path, blob in self.files.items()}
        return {"sha": self.sha, "ref": self.ref, "files": files, "repo_id": self.repo_id}


def shipped_tokenizer() -> Given:
    """Return what pi0's tokenizer is, by the hashes above."""
    files = {path: Blob(name=sha256, size=size) for path, (sha256, size) in TOKENIZER.items()}
    return Given(sha=TOKENIZER_COMMIT, ref="main", files=files, repo_id=TOKENIZER_REPO)


def is_tokenizer(fetch: Fetch, pin: str | None) -> bool:
    """Return whether the hashes above are those of what is wanted."""
    wanted = (fetch.repo_id, fetch.revision, fetch.patterns) == (PALIGEMMA, None, TOKENIZER_FILES)
    return wanted and pin in (None, TOKENIZER_COMMIT)


def names(fetch: Fetch) -> list[str]:
    """Return the revisions to ask for, likeliest first: ModelScope's main branch is called master."""
    return ["master" if name == "main" else name for name in snapshots.names(fetch)]


def entries(listed: Iterable[Mapping[str, Any]]) -> dict[str, Entry]:
    """Return the files of a list by path. Raises WrongBytes where it makes no sense."""
    found: dict[str, Entry] = {}
    for item in listed:
        path, kind = item.get("Path"), item.get("Type")
        if kind == "tree":
            continue
        size, sha256, commit, at = (item.get(key) for key in ("Size", "Sha256", "Revision", "CommittedDate"))
        if not isinstance(path, str) or type(size) is not int or size < 0 or len(found) >= MOST_FILES:
            raise WrongBytes("its list of files can't be read")
        found[path] = Entry(
            size=size,
            sha256=_digits(sha256, 64),
            commit=_digits(commit, 40),
            at=at if type(at) is int else 0,
        )
    return found


def differing(given: Given, listed: Mapping[str, Entry]) -> frozenset[str]:
    """Return the wanted files that ModelScope lacks, or has with other contents as far as its list shows."""
    return frozenset(path for path, blob in given.files.items() if not _same(listed.get(path), blob))


def _same(entry: Entry | None, blob: Blob) -> bool:
    # The Hub names small files by git's SHA-1: those are compared once they are here.
    return entry is not None and entry.size == blob.size and (len(blob.name) == 40 or entry.sha256 in ("", blob.name))


def own_files(fetch: Fetch, listed: Mapping[str, Entry]) -> dict[str, Blob]:
    """Return the wanted files by ModelScope's own hashes. Raises WrongBytes where one has none."""
    chosen = fetch.chosen(listed)
    if any(not listed[path].sha256 for path in chosen):
        raise WrongBytes("its list of files names no hashes or sizes")
    return {path: Blob(name=listed[path].sha256, size=listed[path].size) for path in chosen}


def own_commit(listed: Mapping[str, Entry]) -> str:
    """Return the newest commit that changed a file; where the list names none, a hash of the list in its stead."""
    newest = max(listed.values(), key=lambda entry: (entry.at, entry.commit), default=None)
    if newest is not None and newest.commit:
        return newest.commit
    told = "".join(f"{path}\0{entry.sha256}\0{entry.size}\n" for path, entry in sorted(listed.items()))
    return hashlib.sha1(told.encode()).hexdigest()


def some(paths: Sequence[str]) -> str:
    """Format paths for a message: the first three and how many more."""
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(path[:80] for path in sorted(paths)[:3]) + more


def _digits(value: object, length: int) -> str:
    return value if isinstance(value, str) and len(value) == length and set(value) <= _DIGITS else ""
