"""What is seen of a trainer from outside, put together."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pi0q.jobs.failures.raised import Raised
from pi0q.jobs.outcome import Reason
from pi0q.workers.host import process_tree
from pi0q.workers.host.cgroup_memory import Group
from pi0q.workers.host.gpu_health import Gpus
from pi0q.workers.runs.eta import SaveSchedule
from pi0q.workers.runs.progress import Progress
from pi0q.workers.runs.trainer_log import RECENT, Log
from pi0q.workers.trainer import evidence as witnesses
from pi0q.workers.trainer import watchdog
from pi0q.workers.trainer.evidence import EvidenceCollector, TrainerOutput

STACKS = """pi0q: no step for 12 s: the trainer hangs
Thread 0x00007f11 (most recent call first):
  File "/opt/trainer/lib/python3.12/threading.py", line 359 in wait
  File "/opt/trainer/lib/python3.12/site-packages/tqdm/_monitor.py", line 60 in run

Current thread 0x00007f22 (most recent call first):
  File "/opt/trainer/lib/python3.12/selectors.py", line 415 in select
  File "/opt/trainer/lib/python3.12/site-packages/torch/utils/data/dataloader.py", line 1288 in _try_get_data
  File "/opt/trainer/lib/python3.12/site-packages/lerobot/scripts/lerobot_train.py", line 601 in train
Thread 0x00007f33 (most recent call first):
  File "/opt/trainer/lib/python3.12/site-packages/torch/utils/data/_utils/worker.py", line 300 in _worker_loop
""".splitlines()


def words(
    exit_code: int, log: list[str] | None = None, *, error: tuple[str, str] | None = None, step: int = 5
) -> TrainerOutput:
    progress = Progress(SaveSchedule(steps=100))
    progress.update(step=step)
    progress.error = Raised.of(*error) if error else None
    return TrainerOutput(exit_code=exit_code, progress=progress, log=log or [])


def group(place: Path, *, used: int, kills: int) -> Group:
    place.mkdir(exist_ok=True)
    for name, text in {
        "memory.max": str(1 << 30), "memory.current": str(used), "memory.stat": "inactive_file 0\n",
        "memory.events": f"oom_kill {kills}\n",
    }.items():  # fmt: skip
        (place / name).write_text(text)
    return Group(place, v2=True)


def test_kills_before_the_run_are_not_its_own(tmp_path: Path) -> None:
    held = [group(tmp_path / "g", used=900 << 20, kills=3)]
    witness = EvidenceCollector(uuids=[], data=tmp_path, groups=held, gpus=Gpus([]))
    said = words(-signal.SIGKILL)
    assert witness.evidence(said, train={}, lerobot="0.6.1").memory.oom_kills == 0
    assert witness.judge(said, train={}, lerobot="0.6.1").reason is Reason.TRAINER_KILLED
    group(tmp_path / "g", used=10, kills=4)
    found = witness.judge(said, train={}, lerobot="0.6.1")
    assert found.reason is Reason.MEMORY_LIMIT and "of 1.0 GiB" in found.detail


def test_memory_is_what_was_last_seen_before_the_end_not_what_is_left_after_it(tmp_path: Path) -> None:
    now = [0.0]
    held = [group(tmp_path / "g", used=100 << 20, kills=0)]
    witness = EvidenceCollector(uuids=[], data=tmp_path, groups=held, gpus=Gpus([]), clock=lambda: now[0])
    group(tmp_path / "g", used=1000 << 20, kills=0)
    witness.on_tick()
    assert witness.evidence(words(-9), train={}, lerobot="").memory.used_mib == 100, "once a second is enough"
    now[0] = 1.0
    witness.on_tick()
    group(tmp_path / "g", used=5 << 20, kills=0)
    assert witness.judge(words(-9), train={}, lerobot="").reason is Reason.PLATFORM_KILLED


def test_it_has_the_trainers_words_and_the_disks_room(tmp_path: Path) -> None:
    witness = EvidenceCollector(uuids=[], data=tmp_path, groups=[], gpus=Gpus([]))
    said = words(1, ["Traceback", "ValueError: x"], error=("builtins.ValueError", "x"))
    seen = witness.evidence(said, train={"batch_size": 3}, lerobot="0.4.4")
    assert seen.error == Raised(kind="ValueError", text="x", module="builtins")
    assert (seen.step, seen.train, seen.lerobot) == (5, {"batch_size": 3}, "0.4.4")
    assert seen.disk_free_mib and seen.log == ("Traceback", "ValueError: x")
    witness.close()


def test_a_driver_that_never_answers_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    gpus = Gpus([])
    gpus.uuids = ["GPU-a"]
    monkeypatch.setattr(gpus, "states", lambda: asked.wait(60))
    monkeypatch.setattr(witnesses, "DRIVER_SECONDS", 0.05)
    found = EvidenceCollector(uuids=[], data=tmp_path, groups=[], gpus=gpus).judge(words(-9), train={}, lerobot="")
    asked.set()
    assert found.reason is Reason.GPU_LOST and "its driver does not answer" in found.detail


def test_the_log_keeps_its_last_lines_at_hand(tmp_path: Path) -> None:
    log = Log(tmp_path / "trainer.log", {"HF_TOKEN": "hf_secret_of_ada"})
    log.write(
        b"".join(b"line %d\n" % number for number in range(RECENT + 20)) + b"last hf_secret_of_ada without an end"
    )
    recent = log.recent()
    assert (len(recent), recent[0], recent[-1]) == (RECENT + 1, "line 20", "last *** without an end")
    before = log.said
    log.write(b"\nmore\n")
    assert log.recent(before) == ["last *** without an end", "more"]
    log.say("pi0q's own words are not the trainer's")
    assert log.recent()[-1] == "more"
    log.close()


def test_stacks_go_into_a_file_and_say_where_the_trainer_stood(tmp_path: Path) -> None:
    assert watchdog.where(STACKS) == "_try_get_data (dataloader.py:1288)"
    kept = watchdog.keep(STACKS, tmp_path / "stacks-1.txt")
    assert kept and kept.read_text().splitlines() == STACKS
    assert watchdog.where(["nothing of use"]) == ""
    assert watchdog.keep(["nothing of use"], tmp_path / "stacks-2.txt") is None
    assert watchdog.keep(STACKS, tmp_path / "absent" / "stacks.txt") is None


def test_only_those_that_catch_a_signal_are_asked_for_their_stacks() -> None:
    """The others would die of it, and what they leave behind would be taken for the cause."""
    code = (
        "import faulthandler, signal, time; faulthandler.register(signal.SIGUSR2); print(1, flush=True); time.sleep(60)"
    )
    catches = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    not_so = subprocess.Popen(["sleep", "60"])
    try:
        assert catches.stdout and catches.stdout.readline() == b"1\n"
        assert process_tree.that_catch(signal.SIGUSR2, [catches.pid, not_so.pid, 2**22 + 1]) == [catches.pid]
    finally:
        for child in (catches, not_so):
            child.kill()
            child.communicate()
