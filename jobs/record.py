"""The record of a job: what is known of it, as Redis stores it and as the commands show it.

Each field of `Record` says in its metadata how Redis stores it and what it is used for: see `stored`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from pi0q.jobs.best_checkpoint import BEST, Best
from pi0q.jobs.box_choice import ANY, BOX_CHOICE, BoxChoice
from pi0q.jobs.dependencies import AWAITS
from pi0q.jobs.errors import BadRecord
from pi0q.jobs.estimates.base_facts import BASE, BaseFacts
from pi0q.jobs.outcome import IN_THE_FILE, NOT_HELD, OUTCOMES, Reason
from pi0q.jobs.printable import printable
from pi0q.jobs.record_codecs import (
    BOOT,
    BOX,
    COMPILED,
    DISK_PLAN,
    FACTS,
    FLOAT,
    GPUS,
    ID,
    INT,
    LINE,
    MANIFEST,
    MANIFESTS,
    NEEDS,
    PATH,
    PEAKS,
    PINS,
    PRIORITY,
    REASON,
    SAVE_ABLE,
    SPAN,
    SPEC,
    STATE,
    STEPS,
    TEXT,
    TOLD,
    TOLD_BY_BOX,
    URL,
    VERSION,
    WANDB_RUN,
    WISH,
    Codec,
    json_of,
    mapping,
    reason_of,
    whole,
)
from pi0q.jobs.record_codecs import Use as Use
from pi0q.jobs.signing.job_signature import RECEIPT, SIGNATURE, ClaimReceipt, JobSignature
from pi0q.jobs.signing.sweep_warrant import WARRANT, SweepWarrant
from pi0q.jobs.start_point import START_POINT, STARTERS, StartPoint
from pi0q.jobs.state import State
from pi0q.jobs.sweep import TALLY, VALUES, Tally
from pi0q.jobs.vram_peak import PEAK, Peak


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint whose manifest is written."""

    step: int
    #: Directory on the box, `…/checkpoints/000010`.
    path: str
    #: SHA-256 of its `pi0q.manifest.json`.
    manifest: str
    #: Bytes of all its files.
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of a job's history."""

    #: Milliseconds since 1970 on the server's clock.
    at_ms: int
    state: State
    epoch: int
    box: str | None
    reason: Reason | None
    text: str
    #: The last step that was reported then; None before the first.
    step: int | None = None

    @property
    def label(self) -> str:
        """The word for its state that people read, as `Record.label`."""
        waits = self.state is State.WAITING and self.reason in NOT_HELD
        return "waiting" if waits else self.state.label


def _saved(text: str) -> Saved:
    found = mapping(json_of(text))
    if set(found) != set(Saved.__dataclass_fields__):
        raise ValueError
    return Saved(
        step=whole(found["step"]),
        path=PATH.read(found["path"]),
        manifest=MANIFEST.read(found["manifest"]),
        bytes=whole(found["bytes"]),
    )


SAVED = Codec(_saved, "a checkpoint as JSON", lambda saved: saved and vars(saved))
HISTORY = Codec(lambda _: (), "absent", lambda events: [vars(event) for event in events])


def stored(codec: Codec, *uses: Use, key: str = "", absent: str | None = None) -> Mapping[str, Any]:
    """Return the metadata of a field of `Record`.

    `key` is its name in Redis and in `--json` where that is another one than the attribute's; `absent` the text that
    an empty or missing field of Redis stands for.
    """
    return {"codec": codec, "uses": frozenset(uses), "key": key, "absent": absent}


@dataclass(frozen=True, kw_only=True)
class Record:
    """A job as the queue knows it. Times are milliseconds since 1970 on the server's clock."""

    id: str = field(metadata=stored(ID, Use.LISTED))
    name: str = field(metadata=stored(LINE, Use.LISTED))
    state: State = field(metadata=stored(STATE, Use.LISTED, Use.LEDGER))
    #: low, normal, high or urgent.
    priority: str = field(metadata=stored(PRIORITY, Use.LISTED, absent="normal"))
    #: Who submitted it, user@host.
    submitter: str = field(metadata=stored(LINE, Use.LISTED, absent=""))
    #: The validated job file, `Spec.to_json()`.
    spec: Mapping[str, Any] = field(metadata=stored(SPEC, Use.OWNED, absent="{}"))
    #: gpus, vram_mib (per GPU), disk_mib.
    needs: Mapping[str, int] = field(metadata=stored(NEEDS, Use.LISTED, absent="{}"))
    #: The boxes that it may run on; common.lua indexes waiting jobs by it.
    choice: BoxChoice = field(default=ANY, metadata=stored(BOX_CHOICE, Use.LISTED))
    created_ms: int = field(metadata=stored(INT, Use.LISTED))
    updated_ms: int = field(metadata=stored(INT, Use.LISTED, absent="0"))
    #: When the trainer first started.
    started_ms: int | None = field(default=None, metadata=stored(INT, Use.LISTED))
    ended_ms: int | None = field(default=None, metadata=stored(INT, Use.LISTED))
    #: When it last came into the queue.
    queued_ms: int | None = field(default=None, metadata=stored(INT, Use.LISTED))
    reason: Reason | None = field(default=None, metadata=stored(REASON, Use.LISTED))
    #: What happened in the words of whoever saw it.
    detail: str = field(default="", metadata=stored(TEXT, Use.LISTED))
    #: What was seen of its trainer's last end: reason, cure with the numbers of the case, seen (in words), same.
    evidence: Mapping[str, Any] = field(default_factory=dict, metadata=stored(TOLD, Use.LISTED))
    #: The same as values (jobs/failures/facts.py), for `pi0q report`.
    facts: Mapping[str, Any] = field(default_factory=dict, metadata=stored(FACTS))
    #: Grows by one with each claim; only its holder may write.
    epoch: int = field(default=0, metadata=stored(INT, Use.LISTED))
    #: Tries that counted, the present one included.
    attempt: int = field(default=0, metadata=stored(INT, Use.LISTED))
    #: Runs in a row that ended without a new checkpoint.
    runs_without_checkpoint: int = field(default=0, metadata=stored(INT, Use.OWNED, Use.LEDGER, key="fruitless"))
    #: Seconds that it rests in the queue before it is tried again, where its reason asks for that.
    rest_seconds: float = field(default=0.0, metadata=stored(SPAN))
    #: Its owner, or the last one: the box that has its checkpoints.
    box: str | None = field(default=None, metadata=stored(BOX, Use.LISTED, Use.CARRIED))
    #: Start of that box when it claimed the job, see workers/host/identity.py.
    boot: str = field(default="", metadata=stored(BOOT, Use.OWNED))
    #: UUIDs of the GPUs promised to it.
    gpus: tuple[str, ...] = field(default=(), metadata=stored(GPUS, Use.LISTED, Use.OWNED))
    #: What a running job does now, in words: `downloading 3.1/14 GB`, `compiling`, `saving`.
    phase: str = field(default="", metadata=stored(TEXT, Use.LISTED))
    step: int | None = field(default=None, metadata=stored(INT, Use.LISTED, Use.CARRIED, Use.FINAL))
    steps: int | None = field(default=None, metadata=stored(INT, Use.LISTED))
    loss: float | None = field(default=None, metadata=stored(FLOAT, Use.LISTED, Use.FINAL))
    lr: float | None = field(default=None, metadata=stored(FLOAT, Use.LISTED, Use.FINAL))
    #: Loss of the last evaluation on held-out episodes.
    eval_loss: float | None = field(default=None, metadata=stored(FLOAT, Use.LISTED, Use.FINAL))
    #: Its checkpoint with the least of them, where its file keeps that (`checkpoints.best`).
    best: Best | None = field(default=None, metadata=stored(BEST, Use.LISTED, Use.CARRIED, Use.FINAL, Use.LEDGER))
    #: Seconds a step, over the last steps.
    step_seconds: float | None = field(default=None, metadata=stored(SPAN, Use.LISTED))
    #: Seconds that its trainers lived, over all runs and, where it continues another job, over that one's too.
    trained_seconds: float = field(default=0.0, metadata=stored(SPAN, Use.LISTED, Use.CARRIED, Use.FINAL))
    eta_seconds: float | None = field(default=None, metadata=stored(SPAN, Use.LISTED))
    vram_peak_mib: int | None = field(default=None, metadata=stored(INT, Use.CARRIED, Use.FINAL))
    #: The same of each of its cards, by rank, where it trains on several.
    vram_peaks_mib: tuple[int, ...] = field(default=(), metadata=stored(PEAKS, Use.FINAL))
    #: VRAM that its trainer holds now: the part of the promise that is already in the measured use.
    vram_now_mib: int = field(default=0, metadata=stored(INT, Use.OWNED))
    #: Data-disk space that it already took.
    disk_now_mib: int = field(default=0, metadata=stored(INT, Use.OWNED))
    checkpoint: Saved | None = field(
        default=None, metadata=stored(SAVED, Use.LISTED, Use.CARRIED, Use.FINAL, Use.LEDGER)
    )
    #: When that was first reported; None where an older version wrote it.
    checkpoint_ms: int | None = field(default=None, metadata=stored(INT, Use.LISTED, Use.CARRIED))
    #: Its newest copy elsewhere that was verified there: `path` is …/JOB/000010 in a directory or hf://owner/name.
    copied: Saved | None = field(default=None, metadata=stored(SAVED, Use.LISTED, Use.CARRIED, Use.FINAL, Use.LEDGER))
    #: SHA-256 of the manifests of its copies and of what waits to be copied, by step. A box restores no other copy.
    manifests: Mapping[str, str] = field(
        default_factory=dict, metadata=stored(MANIFESTS, Use.CARRIED, Use.FINAL, Use.LEDGER)
    )
    #: SHA-256 of the manifests of the verified checkpoints on the disk of its box, by step.
    verified: Mapping[str, str] = field(default_factory=dict, metadata=stored(MANIFESTS, Use.CARRIED, Use.FINAL))
    #: SHA-256 of the manifests of its compiled kernels in `copy_to`, by key (jobs/compiled_kernels.py).
    compiled: Mapping[str, str] = field(
        default_factory=dict, metadata=stored(COMPILED, Use.CARRIED, Use.FINAL, Use.LEDGER)
    )
    #: Why no newer checkpoint is copied, or how far that is; "" when nothing is behind.
    copy_detail: str = field(default="", metadata=stored(TEXT, Use.LISTED, Use.FINAL))
    #: Seconds by which a save holds its training up: the mean of the last ones.
    save_seconds: float | None = field(default=None, metadata=stored(SPAN, Use.CARRIED, Use.FINAL))
    #: The newest wish for a save, and the newest one that was answered: milliseconds on the server's clock, 0 for none.
    save_wish: int = field(default=0, metadata=stored(INT))
    save_served: int = field(default=0, metadata=stored(INT, Use.FINAL, Use.LEDGER))
    #: The step it was at when that was wished, and the step of the checkpoint that answered.
    save_at: int = field(default=0, metadata=stored(INT))
    save_step: int | None = field(default=None, metadata=stored(INT, Use.FINAL))
    #: Why the wish could not be fulfilled; empty where it was.
    save_detail: str = field(default="", metadata=stored(TEXT, Use.FINAL))
    #: Whether its trainer saves on demand: `starting`, `yes`, `no`; empty where its box can't tell.
    save_able: str = field(default="", metadata=stored(SAVE_ABLE))
    #: Steps whose checkpoints are kept until their user says otherwise.
    pinned_steps: tuple[int, ...] = field(default=(), metadata=stored(STEPS, Use.CARRIED, key="kept_steps"))
    wandb_run_id: str | None = field(default=None, metadata=stored(WANDB_RUN, Use.CARRIED, Use.FINAL, Use.LEDGER))
    wandb_url: str | None = field(default=None, metadata=stored(URL, Use.LISTED, Use.CARRIED, Use.FINAL, Use.LEDGER))
    #: Where an offline WandB run lies on the box.
    wandb_dir: str | None = field(default=None, metadata=stored(PATH, Use.LISTED, Use.CARRIED, Use.FINAL, Use.LEDGER))
    #: The push of the trained policy once it succeeded: state (pending, done, failed), repo, url, detail, tries.
    push: Mapping[str, Any] = field(default_factory=dict, metadata=stored(TOLD, Use.LISTED))
    #: The copy of its last checkpoint, where it was still to be made at the job's end: state, detail, tries.
    copy: Mapping[str, Any] = field(default_factory=dict, metadata=stored(TOLD, Use.LISTED))
    #: WandB runs that were kept on boxes, by box: state (pending, done, failed), mb, detail, tries.
    wandb_sync: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata=stored(TOLD_BY_BOX, Use.LISTED))
    #: Its run at SwanLab, once a box sent something of it.
    swanlab_url: str | None = field(default=None, metadata=stored(URL, Use.LISTED, Use.CARRIED))
    #: What of that run is kept on boxes, by box: state (pending, done, failed), mb, detail, tries.
    swanlab_sync: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict, metadata=stored(TOLD_BY_BOX, Use.LISTED)
    )
    #: Hub repositories and the commits they were pinned to at the first claim.
    pins: Mapping[str, str] = field(default_factory=dict, metadata=stored(PINS, Use.CARRIED, Use.LEDGER))
    #: Those of these commits that are ModelScope's own: nobody compared their files with the Hub's.
    uncompared: Mapping[str, str] = field(default_factory=dict, metadata=stored(PINS, Use.CARRIED, Use.LEDGER))
    #: Version of the LeRobot that made its checkpoint.
    lerobot: str = field(default="", metadata=stored(VERSION, Use.CARRIED))
    #: What was found before a claim, by box: ok, why not, seconds, notes, wandb, dataset (its facts).
    preflight: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata=stored(TOLD_BY_BOX))
    #: The rehearsal before the run itself: ok, seconds, detail, box. Empty: there was none.
    rehearsal: Mapping[str, Any] = field(default_factory=dict, metadata=stored(TOLD, Use.CARRIED))
    #: After a disk ran low: `checkpoint_mib` as far as it is known, `free`: box -> MiB that must be free there before
    #: it takes the job again.
    disk_plan: Mapping[str, Any] = field(default_factory=dict, metadata=stored(DISK_PLAN, Use.CARRIED))
    #: What a user asked of its owner: `cancel` or nothing.
    wish: str = field(default="", metadata=stored(WISH, Use.LISTED))
    #: Who keeps it out of the queue; "" if nobody.
    held: str = field(default="", metadata=stored(TEXT, Use.LISTED))
    #: Jobs that it still waits for, each with `ok` or `any` (dependencies.py); the time before which it does not start.
    awaits: Mapping[str, str] = field(default_factory=dict, metadata=stored(AWAITS, Use.LISTED))
    start_ms: int | None = field(default=None, metadata=stored(INT, Use.LISTED))
    #: The awaited job from whose last checkpoint it starts, until that is fixed in `starts_from`; "" if none.
    start_job: str = field(default="", metadata=stored(ID))
    #: Of a sweep: how its trials stand, and how many of them are queued or run at a time. None: it is no sweep.
    trials: Tally | None = field(default=None, metadata=stored(TALLY, Use.LISTED))
    max_parallel: int | None = field(default=None, metadata=stored(INT))
    #: Of a trial: its sweep, its number from 1, and its values by key. "" for any other job.
    sweep: str = field(default="", metadata=stored(ID, Use.LISTED, Use.CARRIED))
    sweep_number: int | None = field(default=None, metadata=stored(INT, Use.LISTED, Use.CARRIED))
    sweep_values: Mapping[str, Any] = field(default_factory=dict, metadata=stored(VALUES, Use.LISTED, Use.CARRIED))
    #: What no box had when it was held for that: what, why, reason (queue/job_inputs.py); empty: it is not.
    lacks: Mapping[str, Any] = field(default_factory=dict, metadata=stored(TOLD))
    #: The ended job that it goes on from, and the one that goes on from it; "" if none.
    continues: str = field(default="", metadata=stored(ID))
    continued: str = field(default="", metadata=stored(ID))
    #: What was read of the weights that it starts from, at submit; None where nothing was.
    base: BaseFacts | None = field(default=None, metadata=stored(BASE, Use.CARRIED))
    #: The measured VRAM of an earlier job of its shape, by which a submit set its own; None: it was estimated.
    measured: Peak | None = field(default=None, metadata=stored(PEAK))
    #: The checkpoint of another job that it starts from; None where its file names none.
    starts_from: StartPoint | None = field(default=None, metadata=stored(START_POINT, Use.CARRIED))
    #: Jobs that have not ended and start from a checkpoint of this one, with its step: it is kept for them.
    starters: Mapping[str, int] = field(default_factory=dict, metadata=stored(STARTERS))
    #: Its submitter's signature, and the last word of a box that ran it (jobs/signing); None where nobody signs.
    signature: JobSignature | None = field(default=None, metadata=stored(SIGNATURE))
    #: Of a trial that a search proposed: its sweep as its submitter signed it.
    warrant: SweepWarrant | None = field(default=None, metadata=stored(WARRANT))
    receipt: ClaimReceipt | None = field(default=None, metadata=stored(RECEIPT, Use.FINAL, Use.LEDGER))
    #: Where the runner keeps everything of it.
    run_dir: str | None = field(default=None, metadata=stored(PATH, Use.OWNED))
    history: tuple[Event, ...] = field(default=(), metadata=stored(HISTORY))

    @property
    def any_signature(self) -> JobSignature | None:
        """Return the signature that the job goes by: its own, else that of its sweep."""
        return self.signature or (self.warrant.signature if self.warrant else None)

    @property
    def known_manifests(self) -> frozenset[str]:
        """Return the manifests, by SHA-256, of all checkpoints that this record vouches for."""
        newest = {saved.manifest for saved in (self.checkpoint, self.copied) if saved}
        return frozenset(newest | set(self.manifests.values()))

    @property
    def known_checkpoints(self) -> dict[int, str]:
        """Return the manifests, by step, of all verified checkpoints that lie on its box or are copied."""
        newest = {saved.step: saved.manifest for saved in (self.copied, self.checkpoint) if saved}
        by_step = {int(step): manifest for step, manifest in {**self.manifests, **self.verified}.items()}
        return dict(sorted({**by_step, **newest}.items()))

    @property
    def protected_steps(self) -> tuple[int, ...]:
        """Return the steps that retention leaves alone: pinned, the best one, or the start of a job that lives."""
        best = (self.best.step,) if self.best else ()
        return tuple(sorted({*self.pinned_steps, *best, *self.starters.values()}))

    @property
    def label(self) -> str:
        """The word for its state that people read: a job that waits for another one, or a time, is not held."""
        if self.trials and self.state is State.WAITING and not self.held:
            return "sweep"
        return "waiting" if self.state is State.WAITING and not self.held else self.state.label

    @property
    def fix(self) -> str:
        """One sentence on the reason, empty where there is none."""
        if not self.reason:
            return ""
        told = self.evidence.get("cure") if self.evidence.get("reason") == self.reason.value else ""
        # Cures are written before the job is known: see `Outcome.fix`.
        return str(told or OUTCOMES[self.reason].fix).replace("{id}", self.id)

    @property
    def next_step(self) -> str:
        """What its user can do now: the cure, and how an ended job goes on from what it saved; "" where nothing is."""
        shown = self.fix if self.state in (State.FAILED, State.QUEUED, State.WAITING) else ""
        if self.state not in (State.FAILED, State.CANCELLED) or self.continued:
            return shown
        start = f"from step {self.checkpoint.step}" if self.checkpoint else "from step 0: nothing was saved"
        new_file = " --file FILE" if self.reason in IN_THE_FILE else ""
        return f"{shown} `pi0q retry {self.id}{new_file}` goes on {start}.".strip()

    def to_json(self) -> dict[str, Any]:
        """Return what `pi0q show --json` prints."""
        return {one.key: one.codec.show(getattr(self, one.name)) for one in STORED}

    def listed_json(self) -> dict[str, Any]:
        """Return what `pi0q ls --json` prints: the fields that a list reads, and no others."""
        return {one.key: one.codec.show(getattr(self, one.name)) for one in STORED if Use.LISTED in one.uses}


class _Stored(NamedTuple):
    name: str
    key: str
    codec: Codec
    absent: str | None
    uses: frozenset[Use]


#: Every field of `Record` with its metadata. A field without any fails here, at import.
STORED = tuple(
    _Stored(one.name, one.metadata["key"] or one.name, *(one.metadata[part] for part in ("codec", "absent", "uses")))
    for one in fields(Record)
)


#: What `from_hash` reads, and whether it must be there. The history lies in a list of its own.
_READ = tuple(
    (one.name, one.key, one.codec, one.absent, one.name in ("id", "name", "state", "created_ms"))
    for one in STORED
    if one.codec is not HISTORY
)


_CODECS = {key: codec for _, key, codec, _, _ in _READ}
#: What a codec may raise for a malformed text.
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


def keys_for(*uses: Use) -> tuple[str, ...]:
    """Return the names in Redis of the fields with any of these uses."""
    return tuple(one.key for one in STORED if one.uses & set(uses))


def from_hash(raw: Mapping[str, str], history: Sequence[str] = (), *, job_id: str = "") -> Record:
    """Return the record in a Redis hash; a field that is absent or empty takes its default.

    `job_id` is the id under which the hash was found. Raises BadRecord for the first field that pi0q cannot have
    written: nothing of such a record is used.
    """
    job_id = job_id or raw.get("id", "")
    values: dict[str, Any] = {}
    for name, key, codec, absent, needed in _READ:
        # An empty text is an absent one.
        text = raw.get(key) or absent
        if text is None:
            if needed:
                raise BadRecord(job_id, key, "is missing")
            continue
        try:
            values[name] = codec.read(text)
        except _MALFORMED:
            raise BadRecord(job_id, key, f"is not {codec.expects}") from None
    if values["id"] != job_id:
        raise BadRecord(job_id, "id", "is that of another job")
    if history:
        values["history"] = _history(history, values["state"])
    return Record(**values)


def unreadable(fields: Mapping[str, str]) -> dict[str, str]:
    """Return which of these fields, as texts of Redis, `from_hash` would not read, and what each must be."""
    found = {}
    for key, text in fields.items():
        codec = _CODECS.get(key)
        try:
            if codec and text:
                codec.read(text)
        except _MALFORMED:
            found[key] = codec.expects if codec else ""
    return found


def _history(lines: Sequence[str], state: State) -> tuple[Event, ...]:
    """Return the history; a damaged entry says so, and its time is that of the entry before."""
    found: list[Event] = []
    for line in lines:
        try:
            found.append(event_from(line))
        except _MALFORMED:
            at_ms = found[-1].at_ms if found else 0
            text = "an entry that cannot be read: pi0q did not write it"
            found.append(Event(at_ms=at_ms, state=state, epoch=0, box=None, reason=None, text=text))
    return tuple(found)


def event_from(line: str) -> Event:
    """Return one history entry as the Lua scripts write it. Raises ValueError, KeyError for any other text."""
    raw = mapping(json_of(line))
    return Event(
        at_ms=INT.read(str(raw["at_ms"])),
        state=State(raw["state"]),
        epoch=INT.read(str(raw["epoch"])),
        box=BOX.read(raw["box"]) if raw.get("box") else None,
        reason=reason_of(raw.get("reason")),
        text=printable(str(raw.get("text", ""))),
        step=INT.read(str(raw["step"])) if raw.get("step") is not None else None,
    )


def to_hash(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts in Redis of some fields, by their names there: what a report or a transition writes."""
    return {name: _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (BaseFacts, Best, BoxChoice, JobSignature, ClaimReceipt, SweepWarrant)):
        return json.dumps(value.to_json())
    if isinstance(value, Tally):
        return json.dumps({**vars(value), "best_values": value.best_values or {}})
    if isinstance(value, (Saved, StartPoint, Peak)):
        return json.dumps(vars(value))
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
