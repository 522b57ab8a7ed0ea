"""The doctor's check of keys."""

from __future__ import annotations

from pathlib import Path

from pi0q.jobs.signing.keys import TrustedKeys
from pi0q.ops.checks import keys as check
from pi0q.ops.checks.finding import CheckTarget, Finding, Status
from pi0q.ops.machine import Machine
from pi0q.queue import keys
from pi0q.queue.settings import Settings


def test_keys_that_can_not_be_used_are_told_with_a_cure(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    target = CheckTarget(machine=Machine(env=env), settings=Settings(home=tmp_path), box=True)

    def found() -> dict[str, Finding]:
        return {finding.name: finding for finding in check.check(target)}

    assert found() == {}
    keys.create_private(keys.signing_key_path(env))
    keys.write_trusted(keys.trusted_keys_path(env), TrustedKeys())
    assert found()["signing key"].status is Status.OK and found()["trusted keys"].status is Status.WARNING
    keys.signing_key_path(env).chmod(0o644)
    keys.trusted_keys_path(env).write_text("nonsense\n")
    assert found()["signing key"].cure.startswith("chmod 600")
    assert found()["trusted keys"].status is Status.BROKEN and "line 1" in found()["trusted keys"].detail
