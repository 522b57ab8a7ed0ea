"""What is said of a box's cards, in words. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from pi0q.jobs.amounts import gib
from pi0q.jobs.record import Record
from pi0q.queue import box_staging, job_text
from pi0q.queue.box_status import Announced

#: Characters of a bar.
BAR = 20


def by_name(name: str) -> tuple[tuple[int, str], ...]:
    """Return a key that sorts `box-2` before `box-10`."""
    return tuple((int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d{1,9})", name))


def cards(box: Announced) -> str:
    """Return the cards of a box with what no job holds of each: `8x H100 77 20 3 80 80 80 39 75 of 80 GiB free`.

    Neighbours of one kind are told together, in the order of their indices.
    """
    told = []
    for (name, total_mib, simulated), same in groupby(_free(box), key=lambda card: card[:3]):
        free = [mib for _, _, _, mib in same]
        of = f"{total_mib / 1024:.0f} GiB" + (" (simulated)" if simulated else "")
        if len(free) == 1:
            told.append(f"{name} {free[0] / 1024:.1f}/{of}")
        else:
            told.append(f"{len(free)}x {name} {' '.join(f'{mib / 1024:.0f}' for mib in free)} of {of} free")
    return ", ".join(told)


def _free(box: Announced) -> Iterator[tuple[str, int, bool, int]]:
    """Yield name, MiB, whether it is simulated, and MiB that are free and promised to no job, of each card."""
    known: Sequence[Mapping[str, Any]] = json.loads(box.get("gpus") or "[]")
    unpromised: Sequence[int] = json.loads(box.get("free_mib") or "null") or []
    for index, card in enumerate(known):
        free = int(card.get("free_mib") or 0)
        free = min(free, max(0, unpromised[index])) if index < len(unpromised) else free
        yield str(card["name"]), int(card.get("total_mib") or 0), bool(card.get("simulated")), free


def _staging(box: Announced) -> Iterator[str]:
    """Yield what a box without cards does for waiting jobs."""
    if staging := box_staging.read(box):
        yield f"  mode       {staging.mode}"
        if staging.progress:
            yield f"  inputs     {staging.progress}"
        for job, why in staging.problems.items():
            yield f"  not for    {job}: {why}"


def _caches(box: Announced) -> Iterator[str]:
    """Yield the largest repositories in the box's cache."""
    for number, one in enumerate(json.loads(box.get("caches") or "[]")):
        yield f"  {'' if number else 'cache':<9}  {gib(one['mib']):>10}  {one['name']}"


def details(box: Announced, jobs: Sequence[Record], *, idle: str = "") -> Iterator[str]:
    """Yield the lines of `pi0q boxes show`: the box, each card with a bar of its VRAM in use, the jobs on it.

    `idle`: what is to be said of switching itself off (box_status.idle_text).
    """
    seen = job_text.span(float(box["seen_seconds"]))
    yield f"{box['name']}  {box['status']}, last heartbeat {seen} ago"
    yield f"  slots      {box.get('running', '0')} of {box.get('slots', '?')} in use"
    yield f"  disk       {job_text.mib(int(box.get('disk_free_mib') or 0))} free in {box.get('home', '?')}"
    if box.get("lerobot"):
        yield f"  LeRobot    {box['lerobot']}"
    if idle:
        yield f"  power      {idle}"
    yield from _staging(box)
    uuids = [str(card.get("uuid", "")) for card in json.loads(box.get("gpus") or "[]")]
    for index, (name, total_mib, simulated, free_mib) in enumerate(_free(box)):
        on_it = [job.name for job in jobs if index < len(uuids) and uuids[index] in job.gpus]
        # A box may announce any two numbers.
        share = min(1.0, max(0.0, 1 - free_mib / total_mib)) if total_mib else 0.0
        bar = "#" * round(BAR * share) + "." * (BAR - round(BAR * share))
        kind = f"{name}{' (simulated)' if simulated else ''}"
        free = f"{free_mib / 1024:5.1f} of {total_mib / 1024:.0f} GiB free"
        yield f"  GPU {index:<2}     {bar}  {free}  {kind}  {', '.join(on_it)}".rstrip()
    yield from _caches(box)
    for job in jobs:
        yield f"  {job.id}  {job.name}  {job.label}  {job_text.progress(job)}".rstrip()
