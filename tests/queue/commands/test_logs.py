from __future__ import annotations

import json
import signal
from threading import Thread

from pi0q.jobs.outcome import Reason
from pi0q.jobs.transition import ended
from pi0q.queue.commands import logs
from pi0q.queue.connection import connect
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from tests.conftest import Breaks, Command, JobDriver, Start


def finish(store: Store, job: str, epoch: int) -> None:
    assert store.move(job, ended(store.get(job), epoch, Reason.FINISHED, "reached step 50000"))


def test_the_last_lines_and_where_the_others_are(pi0q: Command, driver: JobDriver) -> None:
    job = driver.submit()
    driver.report(job, driver.run(job), log="step 1\n抓 2\n")
    answer = pi0q("logs", job)
    assert (answer.returncode, answer.stdout) == (0, "step 1\n抓 2\n")
    assert f"older lines are on box-a in /data/runs/{job}/trainer.log" in answer.stderr


def test_last_lines_begin_with_a_whole_line() -> None:
    assert logs.last_lines("lf a line\nb\nc\n", 999, None) == "b\nc\n"
    assert logs.last_lines("a\nb\nc\n", 6, None) == "a\nb\nc\n"
    assert logs.last_lines("a\nb\nc", 5, 2) == "b\nc"
    assert logs.last_lines("a\n", 2, 0) == logs.last_lines("", 0, 5) == ""
    assert logs.last_lines("one line without an end", 999, None) == "one line without an end"


def test_logs_prints_the_last_lines_that_were_asked_for(call: Command, driver: JobDriver) -> None:
    job = driver.submit()
    driver.report(job, driver.run(job), log="step 1\nstep 2\nstep 3\n")
    assert call("logs", job, "-n", "2").stdout == "step 2\nstep 3\n"
    assert json.loads(call("logs", job, "-n", "1", "--json").stdout)["text"] == "step 3\n"
    assert call("logs", job, "-n", "-1").returncode == 2


def test_logs_since_a_time(call: Command, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    driver.report(job, epoch, log="old 1\n抓 old 2\n")
    age(store, job, 3600)
    driver.report(job, epoch, log="mid\n")
    age(store, job, 600)
    driver.report(job, epoch, log="new\n")
    assert [call("logs", job, "--since", span).stdout for span in ("1min", "30min", "2h")] == [
        "new\n", "mid\nnew\n", "old 1\n抓 old 2\nmid\nnew\n",
    ]  # fmt: skip
    assert call("logs", job, "--since", "2h", "-n", "1").stdout == "new\n"
    age(store, job, 600)
    assert call("logs", job, "--since", "1min").stdout == ""
    assert call("logs", job, "--since", "soon").returncode == call("logs", job, "--since", "1h", "-f").returncode == 2


def age(store: Store, job: str, seconds: int) -> None:
    """Let all that was reported so far be so much older."""
    key = f"{store.prefix}job:{job}"
    marks = json.loads(str(store.client.hget(key, "log_marks")))
    store.client.hset(key, "log_marks", json.dumps([[at - 1000 * seconds, before] for at, before in marks]))


def test_before_the_start_there_is_none(call: Command, driver: JobDriver) -> None:
    driver.submit("grab_box")
    answer = call("logs", "grab_box")
    assert (answer.returncode, answer.stdout) == (0, "")
    assert "grab_box has not started yet; it is queued." in answer.stderr


def test_as_json(call: Command, driver: JobDriver) -> None:
    job = driver.submit()
    driver.report(job, driver.run(job), log="step 1\n")
    assert json.loads(call("logs", job, "--json").stdout) == {"id": job, "text": "step 1\n", "log_bytes": 7}


def test_no_such_job(call: Command) -> None:
    for follow in ((), ("-f",)):
        answer = call("logs", "nosuchjob", *follow)
        assert (answer.returncode, answer.stdout) == (3, "")
        assert "nosuchjob" in answer.stderr


def test_following_shows_each_line_as_it_comes_and_ends_with_the_job(
    start: Start, driver: JobDriver, store: Store
) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    driver.report(job, epoch, log="step 1\n")
    following = start("logs", "-f", job)
    following.until("step 1")
    driver.report(job, epoch, log="step 2\n")
    following.until("step 2")
    driver.report(job, epoch, log="step 3\n")
    finish(store, job, epoch)
    assert following.end() == 0
    assert following.text == "step 1\nstep 2\nstep 3\n"


def test_ctrl_c_only_stops_looking(start: Start, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    driver.report(job, driver.run(job), log="step 1\n")
    before = store.get(job)
    following = start("logs", "-f", job)
    following.until("step 1")
    assert following.end(signal.SIGINT) == 0
    assert f"Detached. The job keeps running; `pi0q logs -f {job}` shows its log again." in following.text
    assert "Traceback" not in following.text
    assert store.get(job) == before


def test_every_line_once_however_fast_they_come(driver: JobDriver, store: Store, chosen: Settings) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    lines = [f"抓 {number}\n" for number in range(500)]

    def write() -> None:
        with connect(chosen) as client:
            writer = JobDriver(Store(client, chosen.prefix))
            for line in lines:
                writer.report(job, epoch, log=line)
            finish(writer.store, job, epoch)

    growing = logs.growing(store, job)
    seen = [next(growing)]
    writing = Thread(target=write)
    writing.start()
    seen += growing
    writing.join()
    assert "".join(seen) == "".join(lines)


def test_more_than_is_kept_goes_on_with_what_is(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    driver.report(job, epoch, log="first\n")
    growing = logs.growing(store, job)
    assert next(growing) == "first\n"
    flood = "".join(f"step {number}\n" for number in range(10_000))
    driver.report(job, epoch, log=flood)
    assert next(growing) == flood[-32768:]
    finish(store, job, epoch)
    assert list(growing) == []


def test_words_lost_with_a_connection_don_t_make_it_wait_for_ever(
    driver: JobDriver, store: Store, chosen: Settings, break_lines: Breaks
) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    with connect(chosen) as client:
        growing = logs.growing(Store(client, chosen.prefix), job)
        assert next(growing) == ""
        break_lines()
        driver.report(job, epoch, log="last words\n")
        finish(store, job, epoch)
        assert list(growing) == ["last words\n"]
