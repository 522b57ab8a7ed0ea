from __future__ import annotations

import json
import signal
from threading import Thread

from pi0q.jobs.outcome import Reason
from pi0q.jobs.transition import ended
from pi0q.queue.connection import connect
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.verbs import logs

from ..conftest import Breaks, Command, Hands, Start


def finish(store: Store, job: str, epoch: int) -> None:
    assert store.move(job, ended(store.get(job), epoch, Reason.FINISHED, "reached step 50000"))


def test_the_last_lines_and_where_the_others_are(pi0q: Command, hands: Hands) -> None:
    job = hands.submit()
    hands.report(job, hands.run(job), log="step 1\n抓 2\n")
    answer = pi0q("logs", job)
    assert (answer.returncode, answer.stdout) == (0, "step 1\n抓 2\n")
    assert f"older lines are on box-a in /data/runs/{job}/trainer.log" in answer.stderr


def test_before_the_start_there_is_none(call: Command, hands: Hands) -> None:
    hands.submit("grab_box")
    answer = call("logs", "grab_box")
    assert (answer.returncode, answer.stdout) == (0, "")
    assert "grab_box has not started yet; it is queued." in answer.stderr


def test_as_json(call: Command, hands: Hands) -> None:
    job = hands.submit()
    hands.report(job, hands.run(job), log="step 1\n")
    assert json.loads(call("logs", job, "--json").stdout) == {"id": job, "text": "step 1\n", "log_bytes": 7}


def test_no_such_job(call: Command) -> None:
    for follow in ((), ("-f",)):
        answer = call("logs", "nosuchjob", *follow)
        assert (answer.returncode, answer.stdout) == (3, "")
        assert "nosuchjob" in answer.stderr


def test_following_shows_each_line_as_it_comes_and_ends_with_the_job(start: Start, hands: Hands, store: Store) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    hands.report(job, epoch, log="step 1\n")
    following = start("logs", "-f", job)
    following.until("step 1")
    hands.report(job, epoch, log="step 2\n")
    following.until("step 2")
    hands.report(job, epoch, log="step 3\n")
    finish(store, job, epoch)
    assert following.end() == 0
    assert following.text == "step 1\nstep 2\nstep 3\n"


def test_ctrl_c_only_stops_looking(start: Start, hands: Hands, store: Store) -> None:
    job = hands.submit()
    hands.report(job, hands.run(job), log="step 1\n")
    before = store.get(job)
    following = start("logs", "-f", job)
    following.until("step 1")
    assert following.end(signal.SIGINT) == 0
    assert f"Stopped looking; the job goes on. `pi0q logs -f {job}` shows it again." in following.text
    assert "Traceback" not in following.text
    assert store.get(job) == before


def test_every_line_once_however_fast_they_come(hands: Hands, store: Store, chosen: Settings) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    lines = [f"抓 {number}\n" for number in range(2000)]

    def write() -> None:
        with connect(chosen) as client:
            writer = Hands(Store(client, chosen.prefix))
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


def test_more_than_is_kept_goes_on_with_what_is(hands: Hands, store: Store) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    hands.report(job, epoch, log="first\n")
    growing = logs.growing(store, job)
    assert next(growing) == "first\n"
    flood = "".join(f"step {number}\n" for number in range(10_000))
    hands.report(job, epoch, log=flood)
    assert next(growing) == flood[-32768:]
    finish(store, job, epoch)
    assert list(growing) == []


def test_words_lost_with_a_connection_don_t_make_it_wait_for_ever(
    hands: Hands, store: Store, chosen: Settings, break_lines: Breaks
) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    with connect(chosen) as client:
        growing = logs.growing(Store(client, chosen.prefix), job)
        assert next(growing) == ""
        break_lines()
        hands.report(job, epoch, log="last words\n")
        finish(store, job, epoch)
        assert list(growing) == ["last words\n"]
