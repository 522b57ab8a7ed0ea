"""What a box's owner allows jobs to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.trainer.owner_rules import problems


def told(tmp_path: Path, base: str = "lerobot/pi0", **settings: Any) -> list[str]:
    train = {"dataset.repo_id": "you/grab_box", "policy.type": "pi0", "policy.pretrained_path": base}
    chosen = Settings(home=tmp_path / "home", hf_home=tmp_path / "home" / ".cache", **settings)
    return list(problems(Spec(name="n", train=train), chosen))


def test_without_a_list_any_repository_is_allowed(tmp_path: Path) -> None:
    assert told(tmp_path, "mallory/act") == []


def test_a_list_is_of_what_the_file_names(tmp_path: Path) -> None:
    """Not of the tokenizer that LeRobot itself names for pi0."""
    assert told(tmp_path, allow_repos=("lerobot/*", "you/*")) == []
    assert told(tmp_path, "mallory/act", allow_repos=("lerobot/*", "you/grab_box")) == [
        "repository mallory/act is none of those that this box allows (lerobot/*, you/grab_box; PI0Q_ALLOW_REPOS)"
    ]
    assert len(told(tmp_path, "mallory/act", allow_repos=("lerobot/*",))) == 2


def test_weights_lie_where_the_owner_allows(tmp_path: Path) -> None:
    assert told(tmp_path, str(tmp_path / "weights")) == []
    assert told(tmp_path, str(tmp_path / "home/.cache/hub/models--a--b/snapshots/1")) == []
    (outside,) = told(tmp_path, str(tmp_path / "weights"), weights_roots=(tmp_path / "other",))
    assert outside.startswith(f"weights: {tmp_path / 'weights'} is outside of what this box allows")
    (system,) = told(tmp_path, "/etc/weights")
    assert "belongs to the system" in system and "PI0Q_WEIGHTS_ROOTS" in system
