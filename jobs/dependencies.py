"""What a job waits for before it enters the queue: the end of other jobs, and a time. Pure.

after: train_pi0                      starts after a success of that job
after: {ok: [train_a], any: [clean]}  `any`: after its end, however it ended
start_after: 2h                       after the submit; or 2026-11-30T02:00+08:00
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pi0q.jobs import job_id
from pi0q.jobs.record_codecs import Codec, json_of, mapping

#: Terms on which a job waits for another: its success, or its end.
OK, ANY = "ok", "any"
#: Jobs that one job waits for, at the most.
MOST = 100


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a job waits for; nothing set: it enters the queue at once."""

    #: Jobs, by name or id, after whose success it starts.
    ok: tuple[str, ...] = ()
    #: Jobs after whose end it starts.
    any: tuple[str, ...] = ()
    #: Seconds after the submit, or a moment in ISO 8601 with its zone; None: at once.
    start_after: float | str | None = None

    def __bool__(self) -> bool:
        return bool(self.ok or self.any or self.start_after is not None)

    @property
    def references(self) -> tuple[str, ...]:
        """Return the jobs that it waits for, each once."""
        return tuple(dict.fromkeys([*self.ok, *self.any]))

    def terms(self, ids: Mapping[str, str]) -> dict[str, str]:
        """Return the term, OK or ANY, by id of the job; `ids`: the id of each reference. OK is the stricter."""
        return {**{ids[name]: ANY for name in self.any}, **{ids[name]: OK for name in self.ok}}

    def to_json(self) -> dict[str, Any]:
        """Return the keys of the job file; what it does not wait for is left out."""
        after = {OK: list(self.ok), ANY: list(self.any)}
        told: dict[str, Any] = (
            {"after": {how: names for how, names in after.items() if names}} if self.references else {}
        )
        if self.start_after is not None:
            span = isinstance(self.start_after, float)
            told["start_after"] = f"{self.start_after!r}s" if span else self.start_after
        return told

    @classmethod
    def of(cls, after: object, start_after: object) -> Conditions:
        """Return what two keys of a job file say, as their types (schema/start_conditions.py) read them."""
        found = after if isinstance(after, Mapping) else {}
        starts = start_after if isinstance(start_after, (float, str)) else None
        return cls(ok=tuple(found.get(OK, ())), any=tuple(found.get(ANY, ())), start_after=starts)


#: Those of a job that waits for nothing.
NONE = Conditions()


def start_ms(start_after: float | str | None, now_ms: int) -> int | None:
    """Return the time before which a job does not start, milliseconds since 1970; None for at once."""
    if start_after is None or isinstance(start_after, float):
        return None if start_after is None else now_ms + round(start_after * 1000)
    from datetime import datetime  # few jobs have a start time

    return round(datetime.fromisoformat(start_after).timestamp() * 1000)


def in_order(names: Sequence[str], awaited: Mapping[str, Sequence[str]]) -> list[str]:
    """Return names so that each comes after those that it awaits.

    Args:
        names: In the order that is kept where nothing speaks against it.
        awaited: What each awaits; names that are none of `names` do not count.

    Raises:
        ValueError: with the names of a circle, joined by " -> ".
    """
    done = dict[str, None]()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(" -> ".join([*above[above.index(name) :], name]))
        if name not in done:
            for before in awaited.get(name, ()):
                if before in awaited:
                    visit(before, (*above, name))
            done[name] = None

    for name in names:
        visit(name, ())
    return list(done)


def _awaits(text: str) -> dict[str, str]:
    found = mapping(json_of(text))
    if not all(job_id.is_job_id(name) and how in (OK, ANY) for name, how in found.items()):
        raise ValueError
    return found


AWAITS = Codec(_awaits, "`ok` or `any` by job as JSON")
