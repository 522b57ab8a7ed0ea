"""Errors of the Hub, the network and the disk, as the user reads them."""

from __future__ import annotations

import email.utils
import errno
import socket
import ssl
import time

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.workers.run.refusals import Refused, WrongBytes, asked_seconds, lacking, refusal, unreachable

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
    refused = refusal(error, "base you/base", "you/base")
    assert isinstance(refused, Refused) and refused.reason is reason
    assert "base you/base" in refused.detail


@pytest.mark.parametrize("error", [TypeError("a bug"), PermissionError(errno.EACCES, "no"), KeyError("x")])
def test_what_is_nobodys_doing_is_not_dressed_up(error: Exception) -> None:
    assert refusal(error, "base you/base", "you/base") is None


def test_addresses_in_errors_are_not_repeated() -> None:
    error = ConnectionError("https://store.example/x?X-Signature=s3cret")
    refused = refusal(error, "base you/base", "you/base")
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
    assert vars(Refused.from_json(told.to_json())) == vars(told)
    assert told.detail.startswith("Base you/base: no byte came for 120 s. ")


def test_it_says_who_was_asked() -> None:
    refused = refusal(TimeoutError("read"), "base you/base", "you/base", where="the mirror m.example")
    assert refused is not None and refused.why.startswith("the mirror m.example could not be reached for base you/base")
