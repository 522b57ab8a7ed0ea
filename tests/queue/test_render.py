from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.text import Text

from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Event, Record, Saved
from pi0q.jobs.state import State
from pi0q.queue import job_details, job_text, render
from pi0q.queue.job_list import Counts, Page

MINUTE = 60_000
QUEUED = Record(
    id="a1b2c3d4e5f6", name="grab_box", state=State.QUEUED, priority="normal", submitter="ada@laptop", spec={},
    needs={"gpus": 1, "vram_mib": 92160, "disk_mib": 122880}, created_ms=0, updated_ms=0, steps=50000,
    history=(Event(at_ms=0, state=State.QUEUED, epoch=0, box=None, reason=None, text="submitted by ada@laptop"),),
)  # fmt: skip
RUNNING = replace(
    QUEUED, state=State.RUNNING, epoch=2, attempt=1, box="autodl-1", step=12_000, loss=0.03125, lr=2.5e-5,
    step_seconds=1.24, eta_seconds=47_120.0, vram_peak_mib=90_112, wandb_url="https://wandb.ai/e/p/runs/pi0q-a1",
    checkpoint=Saved(step=10_000, path="/runs/a1/output/checkpoints/010000", manifest="ab" * 32, bytes=28_000_000_000),
)  # fmt: skip
FAILED = replace(
    RUNNING, state=State.FAILED, ended_ms=30 * MINUTE, reason=Reason.CUDA_OUT_OF_MEMORY, detail="CUDA out of memory"
)


def text_of(what: object, capsys: pytest.CaptureFixture[str]) -> str:
    """What a reader of the pipe sees."""
    render.console().print(what)
    return capsys.readouterr().out


def table(*jobs: Record, hidden: int = 0) -> object:
    return render.table(Page(jobs=jobs, counts=Counts(live=len(jobs) + hidden, queued=len(jobs)), now_ms=60 * MINUTE))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""), (0, "0.0s"), (0.66, "0.7s"), (9.94, "9.9s"), (10, "10s"), (59.9, "59s"), (60, "1m"), (61, "1m 1s"),
        (3600, "1h"), (3661, "1h 1m"), (97_200, "1d 3h"), (86_400 * 40 + 59, "40d 59s"),
    ],
)  # fmt: skip
def test_a_duration_is_told_in_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert job_text.span(seconds) == text


@pytest.mark.parametrize(("mib", "text"), [(512, "0.5 GiB"), (10_239, "10.0 GiB"), (92_160, "90 GiB")])
def test_an_amount_of_memory(mib: int, text: str) -> None:
    assert job_text.mib(mib) == text


def test_a_line_says_where_a_job_is_and_what_one_would_ask_next(capsys: pytest.CaptureFixture[str]) -> None:
    totals, head, queued, running, failed = text_of(table(QUEUED, RUNNING, FAILED), capsys).splitlines()
    assert totals == "3 queued"
    columns = ["ID", "NAME", "STATE", "PROGRESS", "LOSS", "S/STEP", "TIME", "BOX", "SAVED", "NOTE"]
    assert head.split() == columns
    words = " ".join(queued.split())
    assert words == "a1b2c3d4e5f6 grab_box queued 0/50000 waits 1h needs 1 GPU with 90 GiB, disk 120 GiB"
    words = " ".join(running.split())
    assert "running 12000/50000 24% 0.031 1.24 13h 5m left autodl-1 10000 https://wandb.ai/e/p/runs/pi0q-a1" in words
    assert failed.rstrip().endswith("10000  CUDA out of memory")
    assert "ended 30m ago" in failed


def test_nothing_yet_says_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert "pi0q submit FILE" in text_of(table(), capsys)


def test_what_is_not_shown_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert text_of(table(QUEUED, hidden=250), capsys).splitlines()[-1] == "… and 250 more: `pi0q ls --all`"


@pytest.mark.parametrize(
    "job",
    [
        replace(QUEUED, name="[red]x[/red] [/] :smile: {} %s"),
        replace(QUEUED, name="抓盒子" * 33),
        replace(FAILED, detail="RuntimeError: one\n  two\r\n\tthree " + "x" * 2000),
        replace(RUNNING, phase="downloading 3.1/14 GB", box="b" * 63),
        replace(RUNNING, phase="two\nlines"),
    ],
)
def test_a_job_is_one_line_whatever_it_holds(job: Record, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, line = text_of(table(job), capsys).splitlines()
    assert line.startswith(job.id)


def test_a_name_means_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither colours nor pictures come out of it, and no error."""
    name = "[red]x[/red] [/] :smile:"
    assert name in text_of(table(replace(QUEUED, name=name)), capsys)
    assert f"reason      {name} (trainer_failed)" in text_of(
        render.details(replace(FAILED, reason=Reason.TRAINER_FAILED, detail=name), 0), capsys
    )


def test_a_wish_is_shown_until_it_is_fulfilled() -> None:
    assert job_text.note(replace(RUNNING, wish="cancel")).startswith("cancelling · ")
    assert job_text.note(replace(FAILED, wish="")).startswith("CUDA out of memory")


@pytest.mark.parametrize(
    ("job", "note"),
    [
        (replace(QUEUED, needs={"gpus": 0, "disk_mib": 5120}), "needs no GPU, disk 5.0 GiB"),
        (replace(QUEUED, needs={"gpus": 2, "vram_mib": 92160}), "needs 2 GPUs with 90 GiB, disk 0.0 GiB"),
        (replace(QUEUED, reason=Reason.BOX_RESTARTED, detail="rebooted"), "rebooted"),
        (replace(RUNNING, wandb_url=None, wandb_dir="/data/wandb", phase="saving"), "saving · WandB offline"),
        (replace(RUNNING, state=State.SUCCEEDED, reason=Reason.FINISHED), "https://wandb.ai/e/p/runs/pi0q-a1"),
        (replace(RUNNING, state=State.SUCCEEDED, wandb_url=None), ""),
        (replace(RUNNING, state=State.SUCCEEDED, wandb_url=None, box="b", wandb_dir="/d", wandb_sync={
            "b": {"state": "pending", "mb": 3.14, "detail": "WandB does not answer"}, "c": {"state": "done", "mb": 1}}),
         "WandB offline, 3.1 MB to sync (WandB does not answer)"),
        (replace(RUNNING, wandb_url=None, started_ms=1, spec={"tracking": ["swanlab"]}),
         "SwanLab gets it within minutes"),
        (replace(RUNNING, wandb_url=None, started_ms=1, spec={"tracking": ["swanlab"], "swanlab": {"mode": "offline"}}),
         "SwanLab offline"),
        (replace(RUNNING, wandb_url=None, swanlab_url="https://swanlab.cn/@e/p/runs/r", swanlab_sync={
            "autodl-1": {"state": "pending", "mb": 0.3, "detail": "SwanLab does not answer"}}),
         "https://swanlab.cn/@e/p/runs/r · SwanLab offline, 0.3 MB to sync (SwanLab does not answer)"),
        (replace(RUNNING, state=State.SUCCEEDED, push={"state": "failed", "repo": "you/it", "detail": "no"}),
         "push failed: no · https://wandb.ai/e/p/runs/pi0q-a1"),
        (replace(RUNNING, phase="saving", push={"state": "pending"}), "saving · https://wandb.ai/e/p/runs/pi0q-a1"),
    ],
)  # fmt: skip
def test_the_note(job: Record, note: str) -> None:
    assert job_text.note(job) == note


def test_details_hold_everything(capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(render.details(replace(RUNNING, phase="saving"), 60 * MINUTE, ["step 1", "step 2"]), capsys)
    for part in (
        "grab_box  a1b2c3d4e5f6", "running  saving", "12000/50000  24%", "0.0312", "lr 2.50e-05", "1.240 s a step",
        "13h 5m left", "autodl-1  claim 2, attempt 1", "1 GPU with 90 GiB, disk 120 GiB", "88 GiB",
        "step 10000, 28000 MB, verified", "/runs/a1/output/checkpoints/010000", "runs/pi0q-a1",
        "1h ago, by ada@laptop, priority normal", "  step 1\n  step 2\n",
    ):  # fmt: skip
        assert part in text


def test_a_failure_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(text_of(render.details(FAILED, 60 * MINUTE), capsys).split())
    assert "reason CUDA out of memory (cuda_out_of_memory)" in text
    assert "what to do The GPU's memory did not suffice: lower batch_size" in text


def test_what_was_seen_of_its_end_is_shown_while_that_is_why_it_is_where_it_is() -> None:
    found = {"reason": "hung", "cure": "Look there.", "seen": ["SIGKILL after step 7"], "stacks": "/data/stacks-1.txt"}
    hung = replace(FAILED, reason=Reason.HUNG, evidence=found)
    assert job_text.seen(hung) == ["SIGKILL after step 7", "stacks of all its threads: /data/stacks-1.txt"]
    assert job_text.seen(replace(hung, reason=Reason.LEASE_EXPIRED)) == []
    assert job_text.seen(replace(hung, state=State.RUNNING)) == []
    assert job_text.seen(FAILED) == []


@pytest.mark.parametrize(("step", "full"), [(None, 0), (0, 0), (25_000, 15), (50_000, 30), (60_000, 30)])
def test_the_bar_shows_the_trainings_own_step(step: int | None, full: int) -> None:
    bar = render.bar(replace(RUNNING, step=step))
    assert isinstance(bar, Text)
    assert bar.plain.startswith("━" * 30 + f" {step or 0}/50000")
    assert sum(span.end - span.start for span in bar.spans if span.style == "green") == full


def test_history_is_told_by_the_clock_and_since_the_submit(capsys: pytest.CaptureFixture[str]) -> None:
    ended = Event(at_ms=90_000, state=State.FAILED, epoch=2, box="autodl-1", reason=Reason.DISK_FULL, text="full")
    _, first, second = text_of(render.history(replace(FAILED, history=(*QUEUED.history, ended))), capsys).splitlines()
    assert first.split()[2:] == ["0.0s", "queued", "submitted", "by", "ada@laptop"]
    assert second.split()[2:] == ["1m", "30s", "failed", "2", "autodl-1", "full"]
    assert second.startswith(job_text.clock(90_000) + "  ")


def test_time_of_training_is_that_of_all_claims_without_the_waits_between() -> None:
    def event(at_s: int, state: State) -> Event:
        return Event(at_ms=at_s * 1000, state=state, epoch=1, box="b", reason=None, text="")

    states = [State.QUEUED, State.CLAIMED, State.PREPARING, State.RUNNING, State.QUEUED, State.CLAIMED, State.RUNNING]
    job = replace(RUNNING, epoch=2, history=tuple(event(at * 10, state) for at, state in enumerate(states)))
    assert job_text.trained_ms(job, 65_000) == 10_000 + 5_000
    assert job_text.ran(job, 65_000) == "15s in 2 claims"
    assert job_text.ran(replace(QUEUED, history=()), 0) == ""


def test_json_is_json_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    job_text.print_json([RUNNING.to_json(), {"name": "抓盒子"}])
    out = capsys.readouterr().out
    assert "抓盒子" in out
    assert json.loads(out)[0]["checkpoint"]["step"] == 10_000


def test_a_narrow_terminal_keeps_name_state_progress_and_note(capsys: pytest.CaptureFixture[str]) -> None:
    page = Page(jobs=(RUNNING,), counts=Counts(live=1, active=1), now_ms=60 * MINUTE)
    heads = {
        width: text_of(render.table(page, width=width), capsys).splitlines()[1].split() for width in (80, 100, 130)
    }
    assert heads[80] == ["ID", "NAME", "STATE", "PROGRESS", "TIME", "NOTE"]
    assert heads[100] == ["ID", "NAME", "STATE", "PROGRESS", "TIME", "BOX", "SAVED", "NOTE"]
    assert heads[130] == list(job_text.COLUMNS)


def test_a_job_on_several_gpus_shows_each_peak_and_the_samples_of_all() -> None:
    spec = {"train": {"batch_size": 8}}
    several = replace(RUNNING, needs={"gpus": 2}, spec=spec, step_seconds=0.5, vram_peaks_mib=(2048, 1024))
    told = dict(job_details.rows(several, 0))
    assert "0.500 s a step, 32.0 samples/s over 2 GPUs" in told["speed"]
    assert told["VRAM peak"].endswith("(by rank 2.0 GiB, 1.0 GiB)")
    one = dict(job_details.rows(replace(several, needs={"gpus": 1}, vram_peaks_mib=()), 0))
    assert "samples" not in one["speed"] and "rank" not in one["VRAM peak"]
