from __future__ import annotations

import json
import os
import pty
import signal
import subprocess

import pytest
from redis.client import PubSub

from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.transition import ended, preparing, running
from pi0q.queue import following
from pi0q.queue.commands import watch
from pi0q.queue.connection import connect
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store, await_news
from tests.conftest import PATIENCE, PI0Q, Breaks, Command, JobDriver, Start


def end(store: Store, job: str, epoch: int, reason: Reason = Reason.FINISHED, detail: str = "done") -> None:
    assert store.move(job, ended(store.get(job), epoch, reason, detail))


def test_in_a_pipe_each_change_is_a_line(start: Start, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    watching = start("watch", job)
    assert watching.until("queued") == "queued  0/50000  needs 1 GPU with 90 GiB, disk 120 GiB\n"
    epoch = driver.claim(job)
    watching.until("claimed")
    store.move(job, preparing(epoch, attempt=1, run_dir="/x"))
    watching.until("preparing")
    store.move(job, running(epoch, text="", started_ms=1))
    watching.until("running")
    driver.report(
        job,
        epoch,
        step=10_000,
        loss=0.5,
        phase="",
        checkpoint=Saved(step=9, path="/c/000009", manifest="0" * 64, bytes=1),
    )
    assert watching.until("10000") == "running  10000/50000 20%  loss 0.500  saved 9\n"
    end(store, job, epoch)
    watching.until("succeeded")
    assert watching.end() == 0


def test_a_failure_is_told_with_its_reason_and_the_exit_code(start: Start, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    watching = start("watch", job)
    watching.until("running")
    end(store, job, epoch, Reason.CUDA_OUT_OF_MEMORY, "CUDA out of memory")
    assert "CUDA out of memory" in watching.until("failed")
    assert watching.end() == 1


@pytest.mark.parametrize(("reason", "code"), [(Reason.FINISHED, 0), (Reason.NON_FINITE_LOSS, 1)])
def test_what_has_ended_is_told_at_once(
    reason: Reason, code: int, call: Command, driver: JobDriver, store: Store
) -> None:
    job = driver.submit()
    end(store, job, driver.run(job), reason)
    answer = call("watch", job)
    assert answer.returncode == code
    assert len(answer.stdout.splitlines()) == 1


def test_a_cancelled_job_did_not_succeed(call: Command, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    store.cancel(job, text="no")
    assert call("watch", job).returncode == 1


def test_steps_are_told_by_tenths(start: Start, driver: JobDriver, store: Store) -> None:
    job = driver.submit(steps=200)
    epoch = driver.run(job)
    watching = start("watch", job)
    watching.until("running")
    for step in range(201):
        driver.report(job, epoch, step=step, phase="")
    end(store, job, epoch)
    assert watching.end() == 0
    assert len(watching.text.splitlines()) <= 1 + 1 + 11 + 1


def test_ctrl_c_only_stops_looking(start: Start, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    driver.run(job)
    before = store.get(job)
    watching = start("watch", job)
    watching.until("running")
    assert watching.end(signal.SIGINT) == 0
    assert watching.text.endswith("Detached. The job keeps running.\n")
    assert store.get(job) == before


def test_no_such_job(call: Command) -> None:
    answer = call("watch", "nosuchjob")
    assert (answer.returncode, answer.stdout) == (3, "")


@pytest.mark.parametrize("leave", ["q", "Ctrl-C"])
@pytest.mark.parametrize("whole", [True, False], ids=["all jobs", "one job"])
def test_watch_on_a_terminal_stays_until_it_is_left(
    whole: bool, leave: str, env: dict[str, str], driver: JobDriver, store: Store
) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    ours, theirs = pty.openpty()
    command = [*PI0Q, "watch", *([] if whole else [job])]
    env |= {"TERM": "xterm", "COLUMNS": "150", "LINES": "40"}
    with subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as it:
        os.close(theirs)
        try:
            seen = read_until(ours, "0/50000")
            assert "grab_box" in seen and "\x1b[" in seen
            driver.report(job, epoch, step=25_000, phase="")
            read_until(ours, "25000/50000")
            if leave == "q":
                os.write(ours, b"q")
            else:
                it.send_signal(signal.SIGINT)
            left = read_until(ours, "Detached. The jobs keep running.")
            assert "25000/50000" in left.rpartition("\x1b[?1049l")[2], "the last picture stays on the terminal"
            assert it.wait(PATIENCE) == 0
        finally:
            it.kill()
            os.close(ours)
    assert store.get(job).wish == ""


def read_until(terminal: int, word: str) -> str:
    """What the terminal showed up to `word`; a command that ends without it gives an OSError."""
    seen = ""
    while word not in seen:
        seen += os.read(terminal, 65536).decode()
    return seen


def test_words_lost_with_a_connection_don_t_make_it_wait_for_ever(
    driver: JobDriver,
    store: Store,
    chosen: Settings,
    break_lines: Breaks,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = driver.submit()
    epoch = driver.run(job)

    def lose(pubsub: PubSub, job_id: str, seconds: float) -> bool:
        """The connection breaks, and while it is away the job ends."""
        break_lines()
        end(store, job, epoch)
        return await_news(pubsub, job_id, seconds)

    monkeypatch.setattr(following, "await_news", lose)
    with connect(chosen) as client:
        watch.follow(Store(client, chosen.prefix), job)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("running") and last.startswith("succeeded")


def test_for_machines_each_change_is_a_record(call: Command, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    store.cancel(job, text="no")
    told = [json.loads(line) for line in call("watch", job, "--json").stdout.splitlines()]
    assert [(record["id"], record["state"]) for record in told] == [(job, "cancelled")]
    assert call("watch", "--json").returncode == 2
