from __future__ import annotations

import pytest

from pi0q.jobs.failures.classify import diagnose
from pi0q.jobs.failures.evidence import Evidence
from pi0q.jobs.failures.raised import Raised
from pi0q.jobs.outcome import OUTCOMES, Next, Reason


def test_every_reason_says_what_follows_and_what_to_do() -> None:
    assert set(OUTCOMES) == set(Reason)
    assert all(outcome.fix.endswith(".") for outcome in OUTCOMES.values())


@pytest.mark.parametrize(
    "reason", [Reason.SPEC_REFUSED, Reason.NEEDS_ACCESS, Reason.NOT_ON_HUB, Reason.CUDA_OUT_OF_MEMORY,
               Reason.NON_FINITE_LOSS, Reason.TRAINER_BROKEN]
)  # fmt: skip
def test_what_would_fail_again_is_not_tried_again(reason: Reason) -> None:
    assert OUTCOMES[reason].next is Next.FAIL


@pytest.mark.parametrize(
    "reason", [Reason.RUNNER_LOST, Reason.BOX_RESTARTED, Reason.LEASE_EXPIRED, Reason.STOPPED_BY_BOX]
)
def test_what_a_box_did_is_not_held_against_the_job(reason: Reason) -> None:
    assert OUTCOMES[reason].next is Next.REQUEUE


def test_a_network_and_a_disk_are_waited_for() -> None:
    waited = {reason: outcome.rest_seconds for reason, outcome in OUTCOMES.items() if outcome.next is Next.RETRY_LATER}
    # A disk is looked at; nothing is gained by a rest.
    assert waited == {Reason.NETWORK: 60.0, Reason.DISK_FULL: 0.0, Reason.DISK_LOW: 0.0}


@pytest.mark.parametrize(
    ("exit_code", "error", "message", "reason"),
    [
        (0, None, "", Reason.FINISHED),
        (75, None, "", Reason.STOPPED_BY_BOX),
        (77, None, "", Reason.STOPPED_BY_BOX),
        (76, None, "", Reason.NON_FINITE_LOSS),
        (2, None, "", Reason.SPEC_REFUSED),
        (1, None, "", Reason.TRAINER_FAILED),
        (-9, None, "", Reason.TRAINER_KILLED),
        (-15, None, "", Reason.TRAINER_KILLED),
        (1, "OutOfMemoryError", "CUDA out of memory", Reason.CUDA_OUT_OF_MEMORY),
        (1, "OutOfMemoryError", "", Reason.CUDA_OUT_OF_MEMORY),
        (1, "GatedRepoError", "401", Reason.NEEDS_ACCESS),
        (1, "RepositoryNotFoundError", "404", Reason.NOT_ON_HUB),
        (1, "RevisionNotFoundError", "404", Reason.NOT_ON_HUB),
        (1, "DecodingError", "no such field", Reason.SPEC_REFUSED),
        (1, "ModuleNotFoundError", "No module named 'transformers'", Reason.TRAINER_BROKEN),
        (1, "OSError", "[Errno 28] No space left on device", Reason.DISK_FULL),
        (1, "SafetensorError", "I/O error: No space left on device (os error 28)", Reason.DISK_FULL),
        (1, "ValueError", "something else", Reason.TRAINER_FAILED),
        (1, "NotAnOutOfMemoryErrorAtAll", "", Reason.TRAINER_FAILED),
        # A trainer that told its error and then died of a signal, as torch's abort does.
        (-6, "OutOfMemoryError", "", Reason.CUDA_OUT_OF_MEMORY),
    ],
)
def test_how_a_trainer_ended_gives_the_reason(exit_code: int, error: str | None, message: str, reason: Reason) -> None:
    assert diagnose(Evidence(exit_code=exit_code, error=Raised.of(error, message) if error else None)) is reason
