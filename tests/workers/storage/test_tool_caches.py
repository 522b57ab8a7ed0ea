"""What a box with a full system disk is told to empty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pi0q.queue.store import Store
from pi0q.workers.agent.box import Box
from pi0q.workers.storage import tool_caches
from tests.workers.caches import fill
from tests.workers.conftest import refused, submit


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tool_caches, "WORTH_MIB", 2)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    fill(tmp_path / "user/.cache/pip/wheel", 2)
    fill(tmp_path / "user/miniconda3/pkgs/torch.conda", 3)
    fill(tmp_path / "user/.cache/uv/small", 1)
    yield tmp_path / "user"
    tool_caches._seen.clear()


def test_the_biggest_first_and_nothing_small(home: Path) -> None:
    assert tool_caches.found(home, system=home) == [
        ("~/miniconda3/pkgs", 3, "conda clean --all -y"),
        ("~/.cache/pip", 2, "pip cache purge"),
    ]


def test_what_lies_on_another_disk_is_not_offered(home: Path) -> None:
    assert tool_caches.found(home, system=Path("/proc")) == []


def test_a_link_to_the_data_disk_is_left_alone(home: Path, tmp_path: Path) -> None:
    (home / "miniconda3/pkgs").rename(tmp_path / "pkgs")
    (home / "miniconda3/pkgs").symlink_to(tmp_path / "pkgs")
    assert [path for path, _, _ in tool_caches.found(home, system=home)] == ["~/.cache/pip"]


def test_the_box_says_it_with_its_refusal(box: Box, store: Store, home: Path) -> None:
    tool_caches.found(home, system=home)
    box.context.settings = replace(box.context.settings, system_disk_reserve_mib=10**9)
    job = submit(store)
    box.claims.claim()
    assert "must stay free: `conda clean --all -y` frees up to 0.0 GiB; `pip cache purge`" in refused(box, job)
