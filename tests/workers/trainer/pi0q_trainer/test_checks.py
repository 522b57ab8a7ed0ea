"""How the hook describes an exception: whatever it is, in one line of the pipe."""

from __future__ import annotations

import json
import urllib.error
from email.message import Message
from typing import Any

from pi0q.jobs.failures.raised import Raised
from pi0q.workers.trainer.pi0q_trainer import checks
from pi0q.workers.trainer.pi0q_trainer.events import LINE_BYTES, encode


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def test_describe_sends_class_module_number_and_frames() -> None:
    told = checks.describe(raised(FileNotFoundError(2, "No such file", "/data/x")))
    assert told["type"] == "FileNotFoundError" and "module" not in told
    assert told["bases"][:2] == ["OSError", "Exception"] and told["errno"] == 2
    assert told["frames"][-1].endswith("test_checks.py:raised")
    assert checks.describe(raised(json.JSONDecodeError("x", "y", 0)))["module"] == "json.decoder"


def test_describe_sends_the_status_of_an_answer() -> None:
    class Answer:
        status_code = 429

    class Refused(Exception):
        response = Answer()

    assert checks.describe(raised(Refused()))["status"] == 429
    http = urllib.error.HTTPError("http://x", 503, "away", Message(), None)
    assert checks.describe(raised(http))["status"] == 503
    assert "status" not in checks.describe(raised(SystemExit(1))), "an exit code is no status"


def test_causes_are_the_nearest_first_and_a_group_has_its_first() -> None:
    inner = raised(KeyError("a"))
    outer = raised(ValueError("b"), raised(RuntimeError("c"), inner))
    assert [type(cause).__name__ for cause in checks.causes(outer)] == ["RuntimeError", "KeyError"]

    class Group(Exception):
        exceptions = (inner, ValueError("second"))

    assert [type(cause).__name__ for cause in checks.causes(raised(Group()))] == ["KeyError"]


def test_a_chain_that_bites_its_tail_ends() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert len(checks.causes(one)) == checks.CAUSES


def test_an_exception_that_cannot_say_what_it_is_is_told_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert checks.describe(raised(Mute()))["message"] == "its text can't be had (RuntimeError)"


def test_a_long_line_does_not_hide_the_lines_below_it() -> None:
    names = ", ".join(f'"layers.{n}.weight"' for n in range(300))
    text = f"Error(s) in loading state_dict for X:\n\tMissing key(s) in state_dict: {names}.\n\tsize mismatch for a: y"
    told = checks.describe(raised(RuntimeError(text)))
    assert "size mismatch for a" in told["message"]


def test_any_exception_fits_into_one_line_of_the_pipe() -> None:
    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        else:
            raise RuntimeError("数据集" * 5000 + "\n" + "x" * 5000)

    found: Any = None
    try:
        deep(50)
    except RuntimeError as error:
        found = checks.describe(error)
    line = encode({"event": "error", "t": 1.0, **found})
    assert len(line) <= LINE_BYTES
    told = Raised.from_json(json.loads(line))
    assert told and told.kind == "RuntimeError" and told.text.startswith("数据集")


def test_what_comes_through_the_pipe_is_bounded_and_of_its_type() -> None:
    wild = {
        "type": "E",
        "message": "x" * 10**6,
        "errno": 10**30,
        "status": "429",
        "frames": {"a": 1},
        "bases": [1] * 99,
    }
    told = Raised.from_json(wild)
    assert told and len(told.text) <= 4000 and told.errno is None and told.status is None and told.frames == ()
    nothing: tuple[Any, ...] = (None, [], "x", {}, {"type": ""})
    assert not any(map(Raised.from_json, nothing))
