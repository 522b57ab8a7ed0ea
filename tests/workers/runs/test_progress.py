"""The hook's events folded into what the record shows."""

from __future__ import annotations

from typing import Any

from pi0q.jobs.failures.raised import Raised
from pi0q.jobs.record import Saved
from pi0q.workers.runs.eta import Pace, SaveSchedule
from pi0q.workers.runs.progress import Progress


def told(*events: dict[str, Any], steps: int = 100) -> dict[str, Any]:
    progress = Progress(SaveSchedule(steps=steps))
    for event in events:
        progress.on_event(event)
    return progress.fields


def step(number: int, t: float, **more: Any) -> dict[str, Any]:
    return {"event": "step", "step": number, "t": t, "loss": 1.0 / number, "lr": 1e-5, **more}


def test_a_step_gives_loss_pace_and_what_is_left() -> None:
    fields = told(step(1, 100.0), step(2, 100.5), step(3, 101.0))
    assert (fields["step"], fields["loss"], fields["lr"]) == (3, 1 / 3, 1e-5)
    assert (fields["step_seconds"], fields["eta_seconds"]) == (0.5, 48.5)


def test_the_first_step_alone_has_no_pace() -> None:
    fields = told(step(1, 100.0))
    assert fields["step_seconds"] is None and fields["eta_seconds"] is None


def test_lost_events_do_not_spoil_the_pace() -> None:
    assert told(step(1, 100.0), step(11, 105.0))["step_seconds"] == 0.5


def test_the_time_of_a_save_is_not_the_pace() -> None:
    first = [step(1, 100.0), step(2, 100.5), {"event": "saving", "step": 2, "t": 100.5}]
    saved = {"event": "saved", "step": 2, "t": 129.5, "seconds": 29.0}
    assert told(*first, saved)["step_seconds"] == 0.5
    assert told(*first, saved, step(3, 130.0))["step_seconds"] == 0.5


def test_a_save_that_says_nothing_of_its_cost_took_as_long_as_it_took() -> None:
    first = [step(1, 1.0), step(2, 2.0), {"event": "saving", "step": 2, "t": 2.0}]
    fields = told(*first, {"event": "saved", "step": 2, "t": 12.0})
    assert fields["eta_seconds"] == 98 + 10


def test_the_pace_is_that_of_the_last_steps() -> None:
    slow = [step(number, number * 10.0) for number in range(1, 20)]
    fast = [step(20 + number, 200 + number * 0.1) for number in range(101)]
    assert told(*slow, *fast, steps=1000)["step_seconds"] == 0.1


def test_its_phases_are_words() -> None:
    events: list[dict[str, Any]] = [
        {"event": "start"},
        {"event": "ready", "step": 10, "steps": 60},
        {"event": "compiling"},
        step(11, 1.0),
        {"event": "saving", "step": 11, "t": 1.0},
        {"event": "saved", "step": 11, "t": 2.0},
        {"event": "stopping"},
    ]
    progress, phases = Progress(SaveSchedule(steps=0)), []
    for event in events:
        progress.on_event(event)
        phases.append(progress.fields["phase"])
    assert phases == [
        "importing LeRobot",
        "first step",
        "compiling",
        "",
        "saving step 11",
        "",
        "saving before it stops",
    ]
    assert progress.fields["steps"] == 60


def test_an_offline_run_has_a_place_and_an_online_one_a_link() -> None:
    offline = told({"event": "wandb", "run_id": "r", "dir": "/runs/x", "offline": True, "url": None})
    assert (offline["wandb_dir"], offline.get("wandb_url")) == ("/runs/x", None)
    online = told({"event": "wandb", "run_id": "r", "dir": "/runs/x", "offline": False, "url": "https://w"})
    assert (online["wandb_dir"], online["wandb_url"]) == (None, "https://w")


def test_the_vram_peak_never_falls() -> None:
    fields = told(
        step(1, 1.0, vram_mib=10, vram_peak_mib=50), step(2, 2.0, vram_mib=20, vram_peak_mib=40), step(3, 3.0)
    )
    assert (fields["vram_peak_mib"], fields["vram_now_mib"]) == (50, 20)


def test_only_what_changed_is_reported_and_only_once() -> None:
    progress = Progress(SaveSchedule(steps=100))
    progress.update(phase="preparing", pins={"a": "b"})
    assert progress.take() == {"phase": "preparing", "pins": {"a": "b"}}
    progress.update(phase="preparing", step=1)
    assert progress.take() == {"step": 1}
    assert progress.take() == {}


def test_an_error_is_remembered_and_an_unknown_event_passed_over() -> None:
    progress = Progress(SaveSchedule(steps=100))
    progress.on_event({"event": "brand-new", "x": 1})
    progress.on_event({})
    progress.on_event({"event": "cause", "type": "OSError", "message": "[Errno 5]", "errno": 5, "frames": ["a.py:f"]})
    progress.on_event({"event": "error", "type": "OutOfMemoryError", "message": "CUDA"})
    assert progress.error == Raised(kind="OutOfMemoryError", text="CUDA")
    assert progress.causes == (Raised(kind="OSError", text="[Errno 5]", errno=5, frames=("a.py:f",)),)
    assert progress.take() == {}


def test_a_loss_that_is_no_number_says_its_step() -> None:
    progress = Progress(SaveSchedule(steps=100))
    progress.on_event({"event": "nonfinite", "step": 7, "loss": "nan"})
    assert progress.error == Raised(kind="NonFiniteLoss", text="the loss became nan at step 7")


def test_the_peak_of_an_earlier_run_is_not_forgotten() -> None:
    progress = Progress(SaveSchedule(steps=100), vram_peak_mib=38538)
    progress.on_event({"event": "step", "t": 1.0, "step": 1, "vram_mib": 30000, "vram_peak_mib": 37000})
    assert progress.take()["vram_now_mib"] == 30000
    assert progress.fields["vram_peak_mib"] == 38538


def test_what_was_lost_to_a_kill_is_counted_in_again() -> None:
    progress = Progress(SaveSchedule(steps=100), pace=Pace(seconds=2.0))
    progress.resume_from(Saved(step=60, path="", manifest="ab" * 32, bytes=1))
    assert (progress.fields["step"], progress.fields["eta_seconds"]) == (60, 80.0)
    progress.resume_from(None)
    assert (progress.fields["step"], progress.fields["checkpoint"]) == (0, None)
    assert progress.fields["eta_seconds"] == 200.0
