"""What a trainer prints and sends, turned into events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.runs.trainer_log import Log
from pi0q.workers.trainer.event_reader import EventReader

UNHOOKED = b'{"event": "start", "hooked": false}\n'


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.make()
    made.checkpoints.mkdir(parents=True)
    return made


@pytest.fixture
def reader(directory: RunDirectory) -> Iterator[EventReader]:
    log = Log(directory.log, {"WANDB_API_KEY": "0123456789abcdef"})
    made = EventReader(log, directory, steps=100)
    yield made
    made.close()
    log.close()


def points_at(directory: RunDirectory, name: str) -> None:
    (directory.checkpoints / "last").unlink(missing_ok=True)
    (directory.checkpoints / "last").symlink_to(name)


def test_events_come_whole_however_the_pipe_cuts_them(reader: EventReader, directory: RunDirectory) -> None:
    line = json.dumps({"event": "step", "step": 7}).encode() + b"\n"
    assert list(reader.from_pipe(line[:9])) == []
    assert list(reader.from_pipe(line[9:] + line[:3])) == [{"event": "step", "step": 7}]
    assert directory.events.read_bytes() == line


def test_what_is_no_event_is_written_down_and_passed_over(reader: EventReader, directory: RunDirectory) -> None:
    assert list(reader.from_pipe(b'torn {"event"\n5\n{"event": "end"}\n')) == [{"event": "end"}]
    assert directory.events.read_text().splitlines() == ['torn {"event"', "5", '{"event": "end"}']


def test_a_secret_in_an_event_is_hidden(reader: EventReader, directory: RunDirectory) -> None:
    (event,) = reader.from_pipe(b'{"event": "error", "message": "key 0123456789abcdef"}\n')
    assert event["message"] == "key ***" and "0123456789abcdef" not in directory.events.read_text()


def test_a_hooked_trainer_is_not_read_off_its_console(reader: EventReader, directory: RunDirectory) -> None:
    list(reader.from_pipe(b'{"event": "start"}\n'))
    points_at(directory, "000020")
    assert list(reader.from_output(b"step:20 smpl:1 loss:0.5 grdn:1 lr:1e-5 x\n")) == []
    assert list(reader.finish()) == [] and reader.hooked


def test_without_a_hook_steps_and_saves_come_from_the_console(reader: EventReader, directory: RunDirectory) -> None:
    list(reader.from_pipe(UNHOOKED))
    (step,) = reader.from_output(b"step:20 smpl:1 loss:0.5 grdn:1 lr:1e-5 x\n")
    assert not reader.hooked and (step["event"], step["step"], step["loss"]) == ("step", 20, 0.5)
    (saving,) = reader.from_output(b"Checkpoint policy after step 20\n")
    assert (saving["event"], saving["step"]) == ("saving", 20)
    points_at(directory, "000020")
    (saved,) = reader.finish()
    assert (saved["event"], saved["step"], Path(saved["path"]).name) == ("saved", 20, "000020")
    assert list(reader.finish()) == [], "each save once"


def test_a_save_before_the_word_that_there_is_no_hook_is_seen(reader: EventReader, directory: RunDirectory) -> None:
    """Output and events come by two ways, and either may be read first."""
    assert list(reader.from_output(b"step:20 smpl:1 loss:0.5 grdn:1 lr:1e-5 x\n")) == []
    points_at(directory, "000020")
    start, saved = reader.from_pipe(UNHOOKED)
    assert (start["event"], saved["event"], saved["step"]) == ("start", "saved", 20)


def test_a_save_is_seen_with_whatever_is_printed_next(reader: EventReader, directory: RunDirectory) -> None:
    list(reader.from_pipe(UNHOOKED))
    points_at(directory, "000020")
    (saved,) = reader.from_output(b"a line of no step\n")
    assert (saved["event"], saved["step"]) == ("saved", 20)
