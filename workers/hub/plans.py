"""What a fetch takes at one commit, as the helper processes find it out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from pi0q.workers.hub.blobs import Blob
from pi0q.workers.hub.errors import WrongBytes
from pi0q.workers.hub.requirements import Fetch

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a fetch takes at one commit."""

    n: int
    fetch: Fetch
    sha: str
    #: Branch or tag that named the commit.
    ref: str | None
    #: Content of each file, by its path in the repository.
    files: Mapping[str, Blob]
    #: Whether it is gated or private on the Hub.
    closed: bool = False
    #: Repository and revision where its files are asked for; "" for those above.
    repo_id: str = ""
    revision: str = ""
    #: Files that are not to be had there, or are others.
    elsewhere: frozenset[str] = frozenset()
    #: Whether the commit and the hashes are ModelScope's own, and nobody compared them with the Hub's.
    uncompared: bool = False


def blob_of(name: str, size: int | None) -> Blob:
    """Return a file's content as a list names it. Raises WrongBytes."""
    if not _DIGEST.fullmatch(name) or size is None:
        raise WrongBytes("its list of files names no hashes or sizes")
    return Blob(name=name, size=size)


def safe_path(name: str) -> str:
    """Return a path that leads nowhere but into the repository. Raises WrongBytes."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise WrongBytes(f"its list of files holds {name[:100]!r}")
    return name
