"""What must hold for any input: properties of the readers of everything that comes from outside.

Each property takes one input and raises AssertionError where it does not hold; what a reader itself raises against its
promise is a fault as well. `test_properties.py` tries a few inputs of each, `make fuzz` as many as there is time for.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from rich.console import Console

from pi0q.jobs.errors import BadRecord, SpecError
from pi0q.jobs.printable import printable
from pi0q.jobs.record import STORED, Record, from_hash, keys_for, to_hash, unreadable
from pi0q.jobs.record_codecs import Use
from pi0q.jobs.schema.flags import FLAGS
from pi0q.jobs.spec import Spec, parse
from pi0q.jobs.state import State
from pi0q.queue import box_fields, box_status, celery_message, job_text, refusals, wait_reasons
from pi0q.queue.place_in_line import place_in_line
from pi0q.queue.reservation import Plan
from pi0q.workers.runs import ledger, postrun_tasks

ID = "a1b2c3d4e5f6"
GOOD = {
    "id": ID, "name": "grab_box", "state": "running", "priority": "normal", "submitter": "ada@laptop",
    "box": "autodl-1",
    "spec": json.dumps({"name": "x", "train": {"dataset.repo_id": "a/b", "policy.type": "act", "steps": 5}}),
    "needs": '{"gpus":1,"vram_mib":92160,"disk_mib":1000}', "created_ms": "1763815200123",
    "updated_ms": "1763815200123", "epoch": "3", "attempt": "1", "step": "10", "steps": "50", "loss": "0.5",
    "gpus": '["GPU-1"]', "boot": "99",
    "checkpoint": json.dumps({"step": 5, "path": "/data/000005", "manifest": "ab" * 32, "bytes": 7}),
    "preflight": '{"autodl-1":{"ok":true,"seconds":1.5}}', "pins": json.dumps({"lerobot/pi0": "c" * 40}),
}  # fmt: skip
KEYS = [one.key for one in STORED]

# -- inputs ------------------------------------------------------------------------------------------

#: Text with what has broken readers before: controls, halves of surrogate pairs, marks of bidirectional text, numbers.
ODD = st.sampled_from([
    "", "{", "[]", "null", "nan", "inf", "-1", "1e400", "1_", "\x00", "\x1b]0;x\x07", "\u202e", "\ud800", "../../x",
    "includeX/root/.netrc", "[" * 20_000, '{"a":' * 600 + "1" + "}" * 600, "9" * 5000, "0x10", "٣", "1e308", "-0.0",
])  # fmt: skip
TEXT = st.one_of(ODD, st.text(max_size=60))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)
#: Any text in a field of a record, JSON of the right kind with a wrong value among it.
FIELDS = st.one_of(TEXT, VALUES.map(json.dumps), st.dictionaries(st.sampled_from(
    ["gpus", "vram_mib", "disk_mib", "seen", "seconds", "notes", "state", "tries", "mb", "step", "path",
     "manifest", "free"]
), VALUES, max_size=4).map(json.dumps))  # fmt: skip
HASHES = st.dictionaries(st.sampled_from(KEYS), FIELDS, max_size=6).map(lambda changed: {**GOOD, **changed})
HISTORIES = st.lists(st.one_of(TEXT, VALUES.map(json.dumps)), max_size=3)
FLAG_NAMES = st.one_of(st.sampled_from(sorted(FLAGS)), TEXT)
TRAINS = st.dictionaries(FLAG_NAMES, VALUES, max_size=6)
SPECS = st.one_of(
    VALUES,
    st.fixed_dictionaries({}, optional={
        "name": VALUES, "priority": VALUES, "resources": VALUES, "checkpoints": VALUES, "rehearsal": VALUES,
        "preflight": VALUES, "train": st.one_of(VALUES, TRAINS), "elsewhere": VALUES,
    }),
)  # fmt: skip
FILES = st.one_of(
    st.binary(max_size=200),
    TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")),
    SPECS.map(lambda spec: json.dumps(spec).encode()),
    st.tuples(FLAG_NAMES, TEXT).map(lambda pair: f"train:\n  {pair[0]}: {pair[1]}\n".encode("utf-8", "surrogatepass")),
)
MESSAGES = st.one_of(
    TEXT,
    VALUES.map(json.dumps),
    st.fixed_dictionaries(
        {
            "headers": st.one_of(VALUES, st.fixed_dictionaries({"id": SCALARS, "task": st.just(celery_message.TASK)})),
            "properties": st.one_of(VALUES, st.just({"delivery_tag": "x", "body_encoding": "base64"})),
            "content-type": st.just("application/json"),
            "body": st.one_of(SCALARS, st.just("W1tdLHt9LHt9XQ==")),
        }
    ).map(json.dumps),
)


def printable_as_json(value: object) -> None:
    """What `--json` prints is JSON of every reader: no NaN, no half of a surrogate pair, no control character."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str, indent=2)
    text.encode()
    assert not set(text) & {chr(code) for code in (*range(9), *range(11, 32), 127, *range(128, 160), 0x202E)}


# -- properties ---------------------------------------------------------------------------------------


def job_file_is_a_spec_or_told_of(raw: bytes) -> None:
    """A job file gives a spec or a SpecError, nothing else; a spec survives its record."""
    try:
        spec = parse(raw, filename="job.yaml")
    except SpecError as error:
        str(error).encode()
        return
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def record_of_a_spec_is_a_spec_or_told_of(value: Any) -> None:
    """`Spec.from_json` of any JSON gives a spec or a SpecError, nothing else."""
    try:
        value = json.loads(json.dumps(value))
    except RecursionError:
        return
    try:
        Spec.from_json(value)
    except SpecError as error:
        str(error).encode()


def hash_is_a_record_or_told_of(given: tuple[Mapping[str, str], list[str]]) -> None:
    """Any hash gives a Record or a BadRecord; whatever is shown of either can be printed."""
    raw, history = given
    try:
        record = from_hash(raw, history, job_id=ID)
    except BadRecord as error:
        printable_as_json(error.to_json())
        "\n".join(job_text.broken_cells(error)).encode()
        str(error).encode()
        return
    shown_everywhere(record)
    listed = {key: raw[key] for key in keys_for(Use.LISTED) if key in raw}
    assert from_hash(listed).id == ID
    assert unreadable(raw) == {}


def shown_everywhere(record: Record) -> None:
    """Everything that a command, a box or Flower says of a record."""
    from pi0q.ops.flower import events
    from pi0q.queue import render

    printable_as_json(record.to_json())
    for text in (*job_text.cells(record, 10**13), record.next_step, *job_text.seen(record), job_text.before(record)):
        text.encode()
    with Path("/dev/null").open("w") as nowhere:
        console = Console(file=nowhere, width=100)
        console.print(render.details(record, 10**13))
        console.print(render.history(record))
    events.events(record, None)
    place = place_in_line(record, [record], [], Plan(), silent_seconds=60.0)
    answer = wait_reasons.explain(record, [], place, waits=(), now_ms=10**13)
    printable_as_json(answer.to_json())
    to_hash({"step": record.step, "checkpoint": record.checkpoint, "pins": record.pins})


def message_is_a_jobs_or_dropped(raw: str) -> None:
    """A message in the queue names a job or nothing; one in a box's own queue is taken or told of."""
    job = celery_message.job_of(raw)
    assert job is None or len(job) == 12
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return
    fault = celery_message.fault(value)
    assert isinstance(fault, str)
    assert fault or job is not None


def ledger_is_one_or_told_of(raw: str) -> None:
    """Any file in the place of a ledger, or of the post-run tasks, is read as one or told of."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / ID
        folder.mkdir()
        for name in ("ledger.json", "after.json"):
            (folder / name).write_bytes(raw.encode("utf-8", "surrogatepass"))
        try:
            found = ledger.load(folder / "ledger.json")
        except BadRecord as error:
            printable_as_json(error.to_json())
        else:
            assert found is not None and isinstance(found.epoch, int)
            assert all(isinstance(text, str) for text in found.fields.values())
        for task in postrun_tasks.PostrunTasks(folder).read():
            assert isinstance(task.epoch, int) and isinstance(task.state, str)


def announcement_is_read(given: Mapping[str, str]) -> None:
    """What a box says of itself and of the jobs that it does not take is read, whatever it is."""
    told = given.get("refusals", "")
    for why in refusals.loads(told).values():
        "; ".join(map(str, why)).encode()
    values = [given.get(name) for name in box_fields.ASKED]
    known = {**box_fields.read(ID, values, 0, told, given.get("plans", "")), "name": "box-a", "seen_seconds": "1.0"}
    known["status"] = box_status.status(known, 600.0)
    job = from_hash({**GOOD, "state": "queued"})
    place = place_in_line(job, [job], [known], Plan(), silent_seconds=60.0)
    printable_as_json(wait_reasons.explain(job, [known], place, waits=(), now_ms=10**13).to_json())


LEDGERS = st.one_of(
    TEXT,
    VALUES.map(json.dumps),
    st.fixed_dictionaries({
        "job_id": st.one_of(st.just(ID), SCALARS), "epoch": SCALARS, "box": st.one_of(st.just("box-a"), SCALARS),
        "boot": st.just("1"), "fields": st.one_of(VALUES, st.just(GOOD)),
        "ending": st.one_of(VALUES, st.fixed_dictionaries({
            "to": st.sampled_from([*State, "x"]), "reason": SCALARS, "text": SCALARS, "fields": VALUES,
        })),
    }).map(json.dumps),
    st.fixed_dictionaries({"chores": st.lists(st.fixed_dictionaries(
        {"kind": SCALARS, "epoch": SCALARS, "box": SCALARS},
        optional={"state": SCALARS, "fields": VALUES, "tries": SCALARS},
    ), max_size=3)}).map(json.dumps),
)  # fmt: skip


REFUSALS = st.dictionaries(TEXT, st.lists(st.dictionaries(
    st.sampled_from(["kind", "text", "seconds", "needed_mib", "free_mib", "gpus", "fitting", "reason", "commands"]),
    st.one_of(st.sampled_from(sorted(refusals.KINDS)), VALUES), max_size=5,
), max_size=3), max_size=2).map(json.dumps)  # fmt: skip
BOXES = st.dictionaries(
    st.sampled_from(["refusals", "plans", "gpus", "free_mib", "slots", "running", "disk_free_mib", "status", "home"]),
    st.one_of(TEXT, VALUES.map(json.dumps), REFUSALS).map(printable),
    max_size=6,
)


@dataclass(frozen=True)
class Property:
    """One property and the inputs that it is tried with."""

    check: Callable[[Any], None]
    inputs: st.SearchStrategy[Any]

    @property
    def name(self) -> str:
        return self.check.__name__


PROPERTIES = (
    Property(job_file_is_a_spec_or_told_of, FILES),
    Property(record_of_a_spec_is_a_spec_or_told_of, SPECS),
    Property(hash_is_a_record_or_told_of, st.tuples(HASHES, HISTORIES)),
    Property(message_is_a_jobs_or_dropped, MESSAGES),
    Property(ledger_is_one_or_told_of, LEDGERS),
    Property(announcement_is_read, BOXES),
)
