"""Which checkpoint of an output directory can be gone on from, and who still writes to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pi0q.workers.adoption.output_directory import NotWhole, newest, writer
from tests.workers.adoption.begun import checkpoint, point_last


def test_newest_is_the_last_whole_checkpoint(tmp_path: Path) -> None:
    for step in (10, 20):
        checkpoint(tmp_path, step, processes=2)
    point_last(tmp_path, 20)
    found = newest(tmp_path)
    assert (found.step, found.path.name, found.processes, found.passed_over) == (20, "000020", 2, {})
    assert newest(tmp_path / "checkpoints").step == 20


def test_a_save_that_last_does_not_point_to_is_passed_over(tmp_path: Path) -> None:
    for step in (10, 20):
        checkpoint(tmp_path, step)
    point_last(tmp_path, 10)
    found = newest(tmp_path)
    assert found.step == 10 and "`last` points to step 10" in found.passed_over["000020"]


def cut(place: Path) -> None:
    file = place / "pretrained_model/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def swap_header(place: Path) -> None:
    file = place / "training_state/optimizer_state.safetensors"
    file.write_bytes(file.read_bytes().replace(b"data_offsets", b"data_offsits"))


def empty(place: Path) -> None:
    (place / "pretrained_model/model.safetensors").write_bytes(b"")


def take_away(place: Path) -> None:
    (place / "training_state/training_step.json").unlink()


def rename_step(place: Path) -> None:
    (place / "training_state/training_step.json").write_text('{"step": 11}')


def link_out(place: Path) -> None:
    (place / "pretrained_model/extra").symlink_to("/etc/passwd")


def add_pickle(place: Path) -> None:
    (place / "training_state/optimizer.pt").write_bytes(b"\x80\x04.")


def break_json(place: Path) -> None:
    (place / "pretrained_model/train_config.json").write_text("{" * 10_000)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut, "model.safetensors has"),
        (swap_header, "its header can't be read"),
        (empty, "cut off or no safetensors file"),
        (take_away, "it lacks training_state/training_step.json"),
        (rename_step, "its training_step.json says 11"),
        (link_out, "pretrained_model/extra is a link"),
        (add_pickle, "may run code when it is read"),
        (break_json, "train_config.json is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    checkpoint(tmp_path, 10)
    damage(checkpoint(tmp_path, 20))
    found = newest(tmp_path)
    assert found.step == 10 and told in found.passed_over["000020"]


def test_a_directory_without_whole_checkpoints_says_why(tmp_path: Path) -> None:
    with pytest.raises(NotWhole, match="there is no checkpoint in"):
        newest(tmp_path)
    cut(checkpoint(tmp_path, 10))
    with pytest.raises(NotWhole, match=r"none of its checkpoints is whole \(000010: model.safetensors has"):
        newest(tmp_path)


@pytest.mark.parametrize("how", ["open file", "command line"])
def test_a_training_that_still_writes_is_found(tmp_path: Path, how: str) -> None:
    output = tmp_path / "outputs" / "x"
    output.mkdir(parents=True)
    wait = "import sys; print('up', flush=True); sys.stdin.read()"
    code = f"f = open({str(output / 'log')!r}, 'w'); {wait}" if how == "open file" else wait
    arguments = [] if how == "open file" else ["--output_dir=outputs/x"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"up\n"
        assert writer(output) == process.pid
        assert writer(tmp_path / "other") is None
        assert process.stdin
        process.stdin.close()
    assert writer(output) is None
