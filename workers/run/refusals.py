"""What an error of huggingface_hub means to the user; one reading for 0.3x (requests) and 1.x (httpx)."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pi0q.jobs.outcome import Reason

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
#: Libraries whose exceptions are the network's doing.
_CARRIERS = frozenset({"httpx", "httpcore", "requests", "urllib3", "huggingface_hub", "ssl"})


class Refused(Exception):
    """Something that the run needs can't be had from the Hub; the trainer is not started."""

    def __init__(self, *, reason: Reason, why: str, detail: str, asked_seconds: float = 0.0) -> None:
        #: What follows for the job.
        self.reason = reason
        #: What happened, as a clause without a full stop.
        self.why = why
        #: What happened and what the user can do.
        self.detail = detail
        #: How long the Hub asked us to stay away.
        self.asked_seconds = asked_seconds
        super().__init__(detail)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` makes the same refusal of."""
        return {"reason": str(self.reason), "why": self.why, "detail": self.detail, "asked_seconds": self.asked_seconds}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Refused:
        return cls(**{**told, "reason": Reason(told["reason"])})


class WrongBytes(Exception):
    """What came is not what the Hub's metadata say; its text says what, without a full stop."""


def refusal(error: Exception, what: str, pin: str, *, where: str = "the Hub") -> Refused | None:
    """Why the Hub did not give `what`; None if the error is not the Hub's, the network's or a full disk's.

    Args:
        what: As the user knows it: "dataset owner/name".
        pin: Its path on the Hub.
        where: Who was asked for it.
    """
    chain = list(_chain(error))
    if wrong := next((one for one in chain if isinstance(one, WrongBytes)), None):
        why = f"{where} gave something else than {what}: {wrong}"
        return _refused(Reason.NETWORK, why, "It was thrown away; it is fetched again, elsewhere if there is a way.")
    if any(_is_full(one) for one in chain):
        why = f"the data disk filled up while {what} was downloaded"
        return _refused(Reason.DISK_FULL, why, "Free some space on the box; what is complete is kept.")
    names = {base.__name__ for one in chain for base in type(one).__mro__}
    response = next((one.response for one in chain if _status(one)), None)  # type: ignore[attr-defined]
    status = response.status_code if response is not None else None
    if "GatedRepoError" in names:
        why = f"{where} guards {what} by terms that this box's account has not accepted (HTTP {status})"
        cure = f"Accept them on https://huggingface.co/{pin} and {_LOGIN}."
        return _refused(Reason.NEEDS_ACCESS, why, cure)
    if names & {"RepositoryNotFoundError", "RevisionNotFoundError"}:
        thing = "revision" if "RevisionNotFoundError" in names else "repository"
        why = f"{where} knows no such {thing}: {what} (HTTP {status})"
        return _refused(Reason.NOT_ON_HUB, why, f"Check its name in the file; if it is private, {_LOGIN}.")
    if status in (401, 403):
        why = f"{where} refuses {what} to this box's token (HTTP {status})"
        return _refused(Reason.NEEDS_ACCESS, why, f"Look at https://huggingface.co/{pin} and {_LOGIN}.")
    if any(_is_network(one) for one in chain):
        # Class and status only: the text of these errors can hold signed addresses.
        told = f"HTTP {status}" if status else type(chain[-1]).__name__
        why = f"{where} was asked too often" if status == 429 else f"{where} could not be reached"
        cure = "" if status else "; see whether the box has a network"
        asked = asked_seconds(response.headers) if response is not None else 0.0
        return _refused(Reason.NETWORK, f"{why} for {what} ({told})", f"What is downloaded is kept{cure}.", asked)
    return None


def unreachable(what: str, why: str) -> Refused:
    """Nobody said why; what was seen of it did."""
    return _refused(Reason.NETWORK, f"{what}: {why}", "What is downloaded is kept; see whether the box has a network.")


def asked_seconds(headers: Mapping[str, str]) -> float:
    """How long an answer asks to stay away: Retry-After in seconds or as a date, or the Hub's own `ratelimit`."""
    told = headers.get("Retry-After") or ""
    with contextlib.suppress(ValueError, TypeError):
        return max(
            0.0,
            float(told)
            if told.strip().isdigit()
            else email.utils.parsedate_to_datetime(told).timestamp() - time.time(),
        )
    spent = re.search(r"r=0;\s*t=(\d+)", headers.get("ratelimit") or "")
    return float(spent[1]) if spent else 0.0


def lacking(what: str, file: str, sha: str) -> Refused:
    """The repository is there, and is not what its flag wants."""
    why = f"{what} holds no {file} at commit {sha[:8]}"
    return _refused(Reason.NOT_ON_HUB, why, "Check its name in the file: another repository may be meant.")


_LOGIN = "run `hf auth login` on the box, then submit again"


def _refused(reason: Reason, why: str, cure: str, asked: float = 0.0) -> Refused:
    return Refused(reason=reason, why=why, detail=f"{why[0].upper()}{why[1:]}. {cure}", asked_seconds=asked)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: BaseException) -> bool:
    # Xet tells it as a RuntimeError's text only.
    return getattr(error, "errno", None) in _FULL or "No space left on device" in str(error)


def _is_network(error: BaseException) -> bool:
    carried = type(error).__module__.partition(".")[0] in _CARRIERS
    if carried or isinstance(error, (ConnectionError, TimeoutError)):
        return True
    # Xet's own, and huggingface_hub's "Consistency check failed", which has no errno.
    return type(error) is RuntimeError or (type(error) is OSError and error.errno is None)


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
