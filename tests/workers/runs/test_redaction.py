"""What a log of a run may never show."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.workers.runs.redaction import base64_forms, known_secrets
from pi0q.workers.runs.trainer_log import Log

KEY = "0123456789abcdef0123456789abcdef01234567"
PASSWORD = "Zq3-vK_8pXw"
ENV = {
    "HF_TOKEN": "hf_notatokenbutlong",
    "PI0Q_REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:6389/0",
    "PATH": "/usr/bin:/bin",
}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    log = Log(tmp_path / "trainer.log", ENV)
    yield log
    log.close()


@pytest.mark.parametrize("before", ["", "a", "ab", "user:", ":"])
@pytest.mark.parametrize("secret", [KEY, PASSWORD, "hf_notatokenbutlong"])
def test_log_hides_secrets_plain_and_in_base64(log: Log, secret: str, before: str) -> None:
    encoded = base64.b64encode(f"{before}{secret}".encode()).decode()
    for text in (secret, f"x{secret}y", encoded, base64.urlsafe_b64encode(f"{before}{secret} more".encode()).decode()):
        shown = log.hide(f"error: {text} end")
        assert "***" in shown, text
        assert not any(form in shown for form in (secret, *base64_forms(secret)))


def test_log_keeps_ordinary_text(log: Log) -> None:
    text = "loss 0.31 in /usr/bin at step 100 of user"
    assert log.hide(text) == text


def test_known_secrets_without_any_are_none(tmp_path: Path) -> None:
    assert known_secrets({"PATH": "/bin", "PI0Q_REDIS_URL": "redis://[bad"}, user_home=tmp_path) == []


def test_known_secrets_survive_a_broken_netrc(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine")
    assert "hf_notatokenbutlong" in known_secrets(ENV, user_home=tmp_path)
