from __future__ import annotations

import pytest

from pi0q.jobs.errors import Fault, NotFound, Pi0qError, QueueUnreachable, SpecError, UsageError


@pytest.mark.parametrize(
    ("error", "code"), [(Pi0qError, 1), (UsageError, 2), (SpecError, 2), (NotFound, 3), (QueueUnreachable, 4)]
)
def test_each_kind_has_the_exit_code_that_the_help_promises(error: type[Pi0qError], code: int) -> None:
    assert error.exit_code == code


def test_a_job_file_tells_all_its_faults_by_line() -> None:
    told = SpecError("job.yaml", [Fault(9, "second"), Fault(2, "first")])
    assert str(told).splitlines() == [
        "2 errors in job.yaml; nothing was queued.",
        "  job.yaml:2: first",
        "  job.yaml:9: second",
    ]
    assert [fault.line for fault in told.faults] == [2, 9]


def test_one_fault_is_one() -> None:
    assert str(SpecError("job.yaml", [Fault(1, "it is empty")])).startswith("1 error in job.yaml;")
