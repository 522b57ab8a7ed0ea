"""Settings of switching a box off, and what a box says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.queue import box_status, settings
from pi0q.queue.idle_outlook import Outlook
from pi0q.queue.idle_policy import Phase, minutes, read_command, read_span


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20min", 1200), ("20 minutes", 1200), ("1.5h", 5400), ("2 d", 172800)]
)
def test_a_span_is_read(text: str, seconds: float) -> None:
    assert read_span(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "min", "0s", "-1h", "31d", "1e9d", "20mins ago", "٢h", "1" * 100 + "h"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="like 20min or 2h"):
        read_span(text)


def test_a_command_is_a_list_of_words_with_a_full_path() -> None:
    assert read_command("shutdown") == ("shutdown",)
    assert read_command('["/bin/off", "--now; rm -r /"]') == ("/bin/off", "--now; rm -r /")
    for wrong in ("/bin/off --now", '"/bin/off"', "[]", '["off"]', "[1]", '["/a\\u0000"]', "[" * 100_000, "{}"):
        with pytest.raises(ValueError, match=r"it must be shutdown, or a command|full path"):
            read_command(wrong)


def test_the_settings_are_off_and_read_from_the_file(tmp_path: Path) -> None:
    assert settings.load({}, config=tmp_path / "none.toml").idle.after is None
    file = tmp_path / "config.toml"
    file.write_text('idle_after = "20min"\nidle_do = ["/bin/off", "now"]\nidle_allow = ["only-copies", "logins"]\n')
    chosen = settings.load({"PI0Q_IDLE_GRACE": "2min"}, config=file)
    assert (chosen.idle.after, chosen.idle.grace, chosen.idle_do) == (1200.0, 120.0, ("/bin/off", "now"))
    assert chosen.idle.allow == {"only-copies", "logins"}
    assert settings.load({"PI0Q_IDLE_AFTER": "off"}, config=file).idle.after is None
    with pytest.raises(UsageError, match="some of only-copies, unsynced-runs, logins, not everything"):
        settings.load({"PI0Q_IDLE_ALLOW": "everything"}, config=file)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (44.2, "45 s"), (60, "1 min"), (660.1, "12 min"), (7200, "2 h"), (11100, "3 h 5 min")],
)
def test_a_time_that_is_left_is_rounded_up(seconds: float, text: str) -> None:
    assert minutes(seconds) == text


def announced(outlook: Outlook | str, *, status: str = "ready", running: int = 0) -> dict[str, str]:
    import json

    text = outlook if isinstance(outlook, str) else json.dumps(outlook.to_json())
    return {"name": "a", "seen_seconds": "60.0", "status": status, "running": str(running), "idle": text}


@pytest.mark.parametrize(
    ("box", "text"),
    [
        (announced(Outlook(phase=Phase.COUNTING, seconds=780)), "switches itself off in 12 min"),
        (announced(Outlook(phase=Phase.LEAVING, seconds=30)), "switches itself off in 0 s"),
        (announced(Outlook(phase=Phase.NEEDED, why=["2 pushes pending"])), "stays on: 2 pushes pending"),
        (announced(Outlook(phase=Phase.NEEDED, why=["grab runs here"]), running=1), ""),
        (announced(Outlook(phase=Phase.OFF)), ""),
        (announced(Outlook(phase=Phase.COUNTING, seconds=9), status="stopped"), ""),
        (announced(""), ""),
        (
            announced(Outlook(phase=Phase.COUNTING, seconds=780, failed="/bin/off: no")),
            "could not switch itself off: /bin/off: no · switches itself off in 12 min",
        ),
    ],
)
def test_boxes_say_when_or_why_not(box: dict[str, str], text: str) -> None:
    assert box_status.idle_text(box, 1e9) == text


def test_a_box_that_is_off_says_since_when() -> None:
    box = announced(Outlook(phase=Phase.OFF), status="stopped")
    assert box_status.idle_text(box, 1_000_000_000.0).startswith("off by itself since 2001-09-0")


@pytest.mark.parametrize(
    "raw",
    [
        [],
        {},
        {"phase": "gone"},
        {"phase": "off", "seconds": True},
        {"phase": "off", "seconds": 1e300},
        {"phase": "off", "seconds": -1},
        {"phase": "off", "why": "no"},
        {"phase": "off", "why": ["x"] * 5},
        {"phase": "off", "why": ["x" * 1000]},
        {"phase": "off", "failed": 1},
    ],
)
def test_what_no_box_says_is_not_read(raw: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        Outlook.of_json(raw)


def test_damage_is_no_outlook_and_signs_are_harmless() -> None:
    assert box_status.outlook(announced("[" * 10_000)) is None
    evil = Outlook(phase=Phase.NEEDED, why=["a\x1b[31m\nb"])
    assert "\x1b" not in box_status.idle_text(announced(evil), 0.0)
    assert "\n" not in box_status.idle_text(announced(evil), 0.0)
    long = Outlook(phase=Phase.NEEDED, why=["x" * 999] * 9, failed="y" * 9999)
    assert Outlook.of_json(long.to_json()).why == ("x" * 200,) * 4
