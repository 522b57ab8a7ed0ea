"""Bring the file of weights that torchvision would fetch at a trainer's start, checked, to the data disk.

torch.hub looks for it in TORCH_HOME, loads what lies there without a look at its hash, and with `weights_only=False`: a
pickle that runs code. So the file is hashed before each start, and the trainer gets TORCH_FORCE_WEIGHTS_ONLY_LOAD, with
which torch makes nothing but tensors of it. No mirror of the Hub has these files: they come from download.pytorch.org
(PI0Q_TORCH_WEIGHTS names another place), over the box's proxies, or from a copy that its owner put there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import logging
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pi0q.jobs.outcome import Reason
from pi0q.jobs.safety.strict_json import MOST_BYTES, Unreadable, parse_object
from pi0q.jobs.schema import backbone_weights
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.host import cache_paths, usage_locks
from pi0q.workers.host.files import fsync, fsync_directory
from pi0q.workers.hub.blobs import amount
from pi0q.workers.hub.errors import HubError, WrongBytes
from pi0q.workers.network import routes
from pi0q.workers.network.routes import Route, Ways

#: Name of the cache, of its usage mark and in `pi0q cache ls`.
CACHE = "torch"
#: The largest file that is taken, bytes: that of ResNet-50 has 98 MB.
LARGEST = 400_000_000
_CHUNK = 256 * 1024

log = logging.getLogger(__name__)


def wanted(spec: Spec, lerobot: str, *, checkpoint: Path | None) -> str | None:
    """Return the name of the file that this start will load; None for none.

    Args:
        spec: Its base named as a directory of this box.
        checkpoint: The one that it goes on from, whose configuration counts then.
    """
    path = spec.train.get("policy.path")
    if checkpoint is None and not path:
        return backbone_weights.wanted(spec.train, lerobot)
    folder = checkpoint / "pretrained_model" if checkpoint else Path(str(path))
    try:
        with (folder / "config.json").open("rb") as file:
            return backbone_weights.of_config(parse_object(file.read(MOST_BYTES + 1)))
    except (OSError, Unreadable):
        return None


def prepare(name: str, settings: Settings, on_phase: Callable[[str], None]) -> Path:
    """Make sure that the file lies on the data disk and is what its name says; return its path. Raises HubError."""
    from filelock import FileLock

    usage_locks.hold(usage_locks.of_box(settings.home), CACHE)
    place = cache_paths.torch_home(settings) / "hub" / "checkpoints" / name
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{name}.lock")):
            if _is_right(place, name):
                return place
            if place.exists():
                log.warning("%s is not what its name says: removed", place)
                place.unlink()
            if not _adopt(place):
                _download(place, settings, on_phase)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = f"{place} can't be written: {error.strerror or error}"
        raise HubError(reason=Reason.DISK_FULL if full else Reason.DISK_BROKEN, why=why) from None
    return place


def _is_right(path: Path, name: str) -> bool:
    """Whether the file is there and its SHA-256 begins as this name says."""
    if not path.is_file():
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest().startswith(Path(name).stem.rpartition("-")[2])


def _adopt(place: Path) -> bool:
    """Copy the file from where torch keeps it for this box's user; return whether it is there and right."""
    own = [Path(os.environ[name]) for name in ("TORCH_HOME",) if os.environ.get(name)]
    for home in (*own, Path("~/.cache/torch").expanduser()):
        there = home / "hub" / "checkpoints" / place.name
        if there != place and _is_right(there, place.name):
            fresh = place.with_name(f".{place.name}.copy")
            shutil.copyfile(there, fresh)
            # The copy counts, not what lay there when it was looked at.
            if _is_right(fresh, place.name):
                fresh.replace(place)
                return True
            fresh.unlink()
    return False


def _download(place: Path, settings: Settings, on_phase: Callable[[str], None]) -> None:
    """Try each route once, resuming what the one before got. Raises HubError and OSError."""
    if routes.offline():
        raise _unreachable(place, settings, "HF_HUB_OFFLINE is set on this box")
    turbo = routes.read_turbo(settings.network_turbo)
    ways = Ways(CACHE, routes.ways(settings.torch_weights, settings, os.environ, turbo), settings.home)
    why = ""
    for route in ways.order():
        try:
            _fetch(route, place, settings, on_phase)
        except _Lost as error:
            why = f"{error} ({route.name})"
            log.warning("%s: %s", place.name, why)
            ways.forget(route)
        else:
            ways.remember(route)
            return
    raise _unreachable(place, settings, why)


class _Lost(Exception):
    """A route did not bring the file; the text says why."""


def _fetch(route: Route, place: Path, settings: Settings, on_phase: Callable[[str], None]) -> None:
    part = place.with_name(f"{place.name}.part")
    with part.open("ab") as file:
        try:
            with contextlib.closing(_Answer(route, place.name, file.tell(), settings)) as answer:
                if not answer.resumes:
                    file.truncate(0)
                for data in answer.chunks():
                    file.write(data)
                    on_phase(f"downloading {place.name} {amount(file.tell(), answer.total)}")
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink()
            raise _Lost(f"HTTP {error.code}") from None
        except (TimeoutError, http.client.HTTPException, urllib.error.URLError, ConnectionError, ValueError) as error:
            raise _Lost(type(getattr(error, "reason", error)).__name__) from None
        except WrongBytes as error:
            part.unlink()
            raise _Lost(str(error)) from None
    if not _is_right(part, place.name):
        part.unlink()
        raise _Lost("what came is not what its name says")
    fsync(part)
    part.replace(place)
    fsync_directory(place.parent)


class _Answer:
    """The open answer of the place that has the files."""

    def __init__(self, route: Route, name: str, have: int, settings: Settings) -> None:
        headers = {"Range": f"bytes={have}-"} if have else {}
        request = urllib.request.Request(f"{route.endpoint}/{name}", headers=headers)
        self._response: Any = routes.open(route, request, timeout=min(60.0, settings.stall_seconds))
        #: Whether what follows the bytes that are here already comes, else all of it.
        self.resumes = bool(have) and self._response.status == http.client.PARTIAL_CONTENT
        #: Bytes of the whole file, as the answer says.
        self.total = int(self._response.headers.get("Content-Length") or 0) + (have if self.resumes else 0)
        self._have = have if self.resumes else 0

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes. Raises WrongBytes where they are too many or end too early."""
        while data := self._response.read(_CHUNK):
            self._have += len(data)
            if self._have > LARGEST:
                raise WrongBytes(f"it has more than {LARGEST} bytes")
            yield data
        if self._have < self.total:
            raise ConnectionError("it ends too early")

    def close(self) -> None:
        """Close the connection."""
        self._response.close()


def _unreachable(place: Path, settings: Settings, why: str) -> HubError:
    fix = (
        f"Copy {place.name} to {place.parent} on the box (its owner can fetch {settings.torch_weights}/{place.name} "
        f"anywhere), or set train.{backbone_weights.FLAG}: null, with which the vision network begins new"
    )
    return HubError(reason=Reason.NETWORK, why=f"could not fetch torchvision's weights {place.name}: {why}", fix=fix)
