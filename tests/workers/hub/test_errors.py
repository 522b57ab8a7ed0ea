"""Errors of the Hub, the network and the disk, as the user reads them."""

from __future__ import annotations

import email.utils
import errno
import socket
import ssl
import time
from types import SimpleNamespace

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.workers.hub.errors import HubError, WrongBytes, asked_seconds, classify, lacking, unreachable

hub = pytest.importorskip("huggingface_hub.errors")


def caused(error: Exception, cause: Exception) -> Exception:
    try:
        raise error from cause
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (caused(hub.LocalEntryNotFoundError("x"), OSError(errno.ENOSPC, "full")), Reason.DISK_FULL),
        (OSError(errno.EDQUOT, "quota"), Reason.DISK_FULL),
        (RuntimeError("Data processing error: No space left on device (os error 28)"), Reason.DISK_FULL),
        (caused(hub.LocalEntryNotFoundError("x"), socket.gaierror(-2, "no such name")), Reason.NETWORK),
        (hub.OfflineModeIsEnabled("offline"), Reason.NETWORK),
        (RuntimeError("Data processing error: CAS service error"), Reason.NETWORK),
        (OSError("Consistency check failed: file should be of size 5 but has size 3"), Reason.NETWORK),
        (TimeoutError("read"), Reason.NETWORK),
        (ssl.SSLEOFError("a cut in TLS"), Reason.NETWORK),
        (WrongBytes("its SHA-256 is another"), Reason.NETWORK),
    ],
)
def test_what_an_error_means(error: Exception, reason: Reason) -> None:
    refused = classify(error, "base you/base", "you/base")
    assert isinstance(refused, HubError) and refused.reason is reason
    assert "base you/base" in refused.detail


def answered(kind: type[Exception], status: int, **headers: str) -> Exception:
    """An error of huggingface_hub after an answer; its 0.3x and 1.x make it of different responses."""
    error = kind.__new__(kind)
    error.response = SimpleNamespace(status_code=status, headers=headers)  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "reason", "why", "fix"),
    [
        (
            answered(hub.GatedRepoError, 403),
            Reason.NEEDS_ACCESS,
            "base you/base is gated on the Hub, and this box's account has not accepted its terms (HTTP 403)",
            "Accept them on https://huggingface.co/you/base and run `hf auth login` on the box, then submit again",
        ),
        (
            answered(hub.RepositoryNotFoundError, 404),
            Reason.NOT_ON_HUB,
            "the Hub knows no such repository: base you/base (HTTP 404)",
            "Check its name in the file; if it is private, run `hf auth login` on the box, then submit again",
        ),
        (
            answered(hub.RevisionNotFoundError, 404),
            Reason.NOT_ON_HUB,
            "the Hub knows no such revision: base you/base (HTTP 404)",
            "Check its name in the file; if it is private, run `hf auth login` on the box, then submit again",
        ),
        (
            answered(hub.HfHubHTTPError, 403),
            Reason.NEEDS_ACCESS,
            "the Hub denies this box's token access to base you/base (HTTP 403)",
            "Look at https://huggingface.co/you/base and run `hf auth login` on the box, then submit again",
        ),
        (
            answered(hub.HfHubHTTPError, 429, **{"Retry-After": "120"}),
            Reason.NETWORK,
            "the Hub was asked too often for base you/base (HTTP 429)",
            "What is downloaded is kept",
        ),
        (
            answered(hub.HfHubHTTPError, 503),
            Reason.NETWORK,
            "the Hub could not be reached for base you/base (HTTP 503)",
            "What is downloaded is kept",
        ),
        (
            ConnectionResetError(errno.ECONNRESET, "reset"),
            Reason.NETWORK,
            "the Hub could not be reached for base you/base (ConnectionResetError)",
            "What is downloaded is kept; check the box's network",
        ),
    ],
)
def test_each_answer_has_its_reason_and_its_fix(error: Exception, reason: Reason, why: str, fix: str) -> None:
    classified = classify(error, "base you/base", "you/base")
    assert classified is not None
    assert (classified.reason, classified.why, classified.fix) == (reason, why, fix)
    assert classified.detail == f"{why[0].upper()}{why[1:]}. {fix}."
    assert classified.asked_seconds == (120.0 if "429" in why else 0.0)


def test_where_no_job_ends_nobody_is_told_to_submit_again() -> None:
    classified = classify(answered(hub.HfHubHTTPError, 403), "the copies", "you/copies", resubmit=False)
    assert classified is not None and classified.fix.endswith("and run `hf auth login` on the box")


@pytest.mark.parametrize("error", [TypeError("a bug"), PermissionError(errno.EACCES, "no"), KeyError("x")])
def test_what_is_nobodys_doing_is_not_dressed_up(error: Exception) -> None:
    assert classify(error, "base you/base", "you/base") is None


def test_addresses_in_errors_are_not_repeated() -> None:
    error = ConnectionError("https://store.example/x?X-Signature=s3cret")
    refused = classify(error, "base you/base", "you/base")
    assert refused is not None and "s3cret" not in refused.detail


def test_a_message_says_what_is_missing() -> None:
    assert lacking("dataset you/d", "meta/info.json", "a" * 40).detail.startswith(
        "Dataset you/d holds no meta/info.json at commit aaaaaaaa. "
    )


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": "soon"}, 0.0),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({"ratelimit": '"api";r=12;t=55'}, 0.0),
        ({}, 0.0),
    ],
)
def test_how_long_an_answer_asks_to_stay_away(headers: dict[str, str], seconds: float) -> None:
    assert asked_seconds(headers) == seconds


def test_it_may_be_a_date() -> None:
    began = time.time()
    seconds = asked_seconds({"Retry-After": email.utils.formatdate(began + 300)})
    # A date has whole seconds.
    assert 299 - (time.time() - began) <= seconds <= 300
    assert asked_seconds({"Retry-After": email.utils.formatdate(began - 300)}) == 0


def test_a_refusal_goes_over_a_pipe_and_is_the_same() -> None:
    told = unreachable("base you/base", "no byte came for 120 s")
    assert HubError.from_json(told.to_json()).to_json() == told.to_json()
    assert told.detail.startswith("Base you/base: no byte came for 120 s. ")


def test_it_says_who_was_asked() -> None:
    refused = classify(TimeoutError("read"), "base you/base", "you/base", where="the mirror m.example")
    assert refused is not None and refused.why.startswith("the mirror m.example could not be reached for base you/base")
