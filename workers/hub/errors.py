"""What an error of huggingface_hub means to the user; one reading for 0.3x (requests) and 1.x (httpx)."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pi0q.jobs.outcome import Reason

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
#: Libraries whose exceptions mean a fault of the network.
_NETWORK_LIBRARIES = frozenset({"httpx", "httpcore", "requests", "urllib3", "huggingface_hub", "ssl"})


class HubError(Exception):
    """The Hub, the network or the disk keeps a run from something that it needs."""

    def __init__(
        self, *, reason: Reason, why: str, fix: str = "", detail: str = "", asked_seconds: float = 0.0
    ) -> None:
        #: What follows for the job.
        self.reason = reason
        #: What happened, as a clause without a full stop.
        self.why = why
        #: What the user can do, likewise; not sent between processes.
        self.fix = fix
        #: Both, as sentences.
        self.detail = detail or f"{why[0].upper()}{why[1:]}. {fix}{'.' if fix else ''}".rstrip()
        #: How long the Hub asked us to stay away.
        self.asked_seconds = asked_seconds
        super().__init__(self.detail)

    def of_the_network(self) -> HubError:
        """Return the same as a reason to try again."""
        detail, asked = self.detail, self.asked_seconds
        return HubError(reason=Reason.NETWORK, why=self.why, detail=detail, asked_seconds=asked)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes: the line that a helper process sends its parent."""
        return {"reason": str(self.reason), "why": self.why, "detail": self.detail, "asked_seconds": self.asked_seconds}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> HubError:
        return cls(**{**line, "reason": Reason(line["reason"])})


class WrongBytes(Exception):
    """What came is not what the Hub's metadata say; the text says what, without a full stop."""


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """An exception with all its causes."""

    chain: tuple[BaseException, ...]

    @property
    def response(self) -> Any:
        """The first answer with a status."""
        return next((error.response for error in self.chain if _status(error)), None)  # type: ignore[attr-defined]

    @property
    def status(self) -> int | None:
        return next((status for error in self.chain if (status := _status(error))), None)

    def find(self, *kinds: type[BaseException]) -> BaseException | None:
        return next((error for error in self.chain if isinstance(error, kinds)), None)

    @property
    def cause(self) -> str:
        # Class and status only: the text of these errors can hold signed addresses.
        return f"HTTP {self.status}" if self.status else type(self.chain[-1]).__name__


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """What one kind of failure means; the first rule that applies counts."""

    applies: Callable[[_Failure], object]
    reason: Reason
    why: str
    fix: str


def _gated(failure: _Failure) -> object:
    from huggingface_hub.errors import GatedRepoError

    return failure.find(GatedRepoError)


def _no_revision(failure: _Failure) -> object:
    from huggingface_hub.errors import RevisionNotFoundError

    return failure.find(RevisionNotFoundError)


def _no_repository(failure: _Failure) -> object:
    from huggingface_hub.errors import RepositoryNotFoundError

    return failure.find(RepositoryNotFoundError)


def _network(failure: _Failure) -> bool:
    return any(_is_network(error) for error in failure.chain)


_RULES = (
    _Rule(
        applies=lambda failure: failure.find(WrongBytes),
        reason=Reason.NETWORK,
        why="{where} sent something else than {what}: {wrong}",
        fix="It was discarded and is downloaded again, over another route if there is one",
    ),
    _Rule(
        applies=lambda failure: any(_is_full(error) for error in failure.chain),
        reason=Reason.DISK_FULL,
        why="the data disk filled up while {what} was downloaded",
        fix="Free some space on the box; complete files are kept",
    ),
    _Rule(
        applies=_gated,
        reason=Reason.NEEDS_ACCESS,
        why="{what} is gated on {where}, and this box's account has not accepted its terms (HTTP {status})",
        fix="Accept them on https://huggingface.co/{pin} and {login}",
    ),
    _Rule(
        applies=_no_revision,
        reason=Reason.NOT_ON_HUB,
        why="{where} knows no such revision: {what} (HTTP {status})",
        fix="Check its name in the file; if it is private, {login}",
    ),
    _Rule(
        applies=_no_repository,
        reason=Reason.NOT_ON_HUB,
        why="{where} knows no such repository: {what} (HTTP {status})",
        fix="Check its name in the file; if it is private, {login}",
    ),
    _Rule(
        applies=lambda failure: failure.status in (401, 403),
        reason=Reason.NEEDS_ACCESS,
        why="{where} denies this box's token access to {what} (HTTP {status})",
        fix="Look at https://huggingface.co/{pin} and {login}",
    ),
    _Rule(
        applies=lambda failure: failure.status == 429 and _network(failure),
        reason=Reason.NETWORK,
        why="{where} was asked too often for {what} ({cause})",
        fix="What is downloaded is kept",
    ),
    _Rule(
        applies=lambda failure: failure.status and _network(failure),
        reason=Reason.NETWORK,
        why="{where} could not be reached for {what} ({cause})",
        fix="What is downloaded is kept",
    ),
    _Rule(
        applies=_network,
        reason=Reason.NETWORK,
        why="{where} could not be reached for {what} ({cause})",
        fix="What is downloaded is kept; check the box's network",
    ),
)


def classify(
    error: Exception, what: str, pin: str, *, where: str = "the Hub", resubmit: bool = True
) -> HubError | None:
    """Return why the Hub did not give `what`; None if neither the Hub, the network nor a full disk is the cause.

    Args:
        what: As the user knows it: "dataset owner/name".
        pin: Its path on the Hub.
        where: Who was asked for it.
        resubmit: Whether the job ends with this error, and has to be submitted again.
    """
    failure = _Failure(chain=tuple(_chain(error)))
    rule = next((rule for rule in _RULES if rule.applies(failure)), None)
    if rule is None:
        return None
    names = {
        "what": what,
        "pin": pin,
        "where": where,
        "wrong": failure.find(WrongBytes),
        "status": failure.status,
        "cause": failure.cause,
        "login": "run `hf auth login` on the box" + ", then submit again" * resubmit,
    }
    response = failure.response if rule.reason is Reason.NETWORK else None
    return HubError(
        reason=rule.reason,
        why=rule.why.format(**names),
        fix=rule.fix.format(**names),
        asked_seconds=asked_seconds(response.headers) if response is not None else 0.0,
    )


def unreachable(what: str, why: str) -> HubError:
    """Return the error of a request that nobody answered."""
    return HubError(
        reason=Reason.NETWORK, why=f"{what}: {why}", fix="What is downloaded is kept; check the box's network"
    )


def lacking(what: str, file: str, sha: str) -> HubError:
    """Return the error of a repository that is there, and is not what its flag wants."""
    return HubError(
        reason=Reason.NOT_ON_HUB,
        why=f"{what} holds no {file} at commit {sha[:8]}",
        fix="Check its name in the file: another repository may be meant",
    )


def asked_seconds(headers: Mapping[str, str]) -> float:
    """Return how long an answer asks to stay away: Retry-After in seconds or as a date, or the Hub's `ratelimit`."""
    retry_after = (headers.get("Retry-After") or "").strip()
    if retry_after.isdigit():
        return float(retry_after)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    spent = re.search(r"r=0;\s*t=(\d+)", headers.get("ratelimit") or "")
    return float(spent[1]) if spent else 0.0


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: BaseException) -> bool:
    # Xet reports it in the text of a RuntimeError only.
    return getattr(error, "errno", None) in _FULL or "No space left on device" in str(error)


def _is_network(error: BaseException) -> bool:
    if type(error).__module__.partition(".")[0] in _NETWORK_LIBRARIES:
        return True
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    # Xet's own, and huggingface_hub's "Consistency check failed", which has no errno.
    return type(error) is RuntimeError or (type(error) is OSError and error.errno is None)


def _status(error: BaseException | None) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
