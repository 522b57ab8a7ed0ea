"""What may go of a box's caches, and what never does; removed by huggingface_hub itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pi0q.queue.settings import Settings
from pi0q.workers.host import usage_locks
from pi0q.workers.storage import inventory
from pi0q.workers.storage.inventory import Busy, Item
from tests.workers.caches import DAY, fill, repo

pytest.importorskip("huggingface_hub")


@pytest.fixture
def settings(chosen: Settings) -> Iterator[Settings]:
    yield chosen
    usage_locks.release()


def named(settings: Settings, name: str) -> Item:
    (found,) = [item for item in inventory.everything(settings) if item.name == name]
    return found


def test_the_longest_unused_comes_first_with_what_it_frees(settings: Settings) -> None:
    repo(settings.hf_home, "you/new", used=3 * DAY)
    repo(settings.hf_home, "you/old", used=1 * DAY, mib=3)
    repo(settings.hf_home, "you/set", used=2 * DAY, kind="dataset")
    found = inventory.everything(settings)
    assert [(item.kind, item.name, item.mib, item.used / DAY, item.kept) for item in found] == [
        ("model", "you/old", 3, 1, ""),
        ("dataset", "you/set", 2, 2, ""),
        ("model", "you/new", 2, 3, ""),
    ]
    assert [inventory.key(item) for item in found] == ["you/old", "datasets/you/set", "you/new"]


def test_a_box_without_any_cache_has_none(settings: Settings) -> None:
    assert inventory.everything(settings) == []


def test_a_repository_goes_whole_and_its_neighbours_stay(settings: Settings) -> None:
    gone, stays = repo(settings.hf_home, "you/old"), repo(settings.hf_home, "you/older")
    (gone / ".pi0q-good.json").write_text("{}")
    assert inventory.remove(named(settings, "you/old"), settings) == 2
    assert not gone.exists()
    assert (stays / "snapshots").is_dir()
    assert [item.name for item in inventory.everything(settings)] == ["you/older"]


def test_a_copy_with_the_same_commits_stays(settings: Settings) -> None:
    gone, copy = repo(settings.hf_home, "you/old"), repo(settings.hf_home, "you/copy")
    (snapshot,) = (copy / "snapshots").iterdir()
    (sha,) = [path.name for path in (gone / "snapshots").iterdir()]
    snapshot.rename(snapshot.with_name(sha))
    (copy / "refs" / "main").write_text(sha)
    inventory.remove(named(settings, "you/old"), settings)
    assert not gone.exists() and (copy / "snapshots" / sha / "weights.bin").exists()


def test_what_is_in_use_pinned_or_being_downloaded_stays(settings: Settings) -> None:
    for name in ("you/used", "you/pinned", "you/loading"):
        repo(settings.hf_home, name)
    items = {item.name: item for item in inventory.everything(settings)}
    marks = usage_locks.of_hub(settings.hf_home)
    usage_locks.hold(marks, "models--you--used")
    usage_locks.pin(marks, "models--you--pinned", True)
    from filelock import FileLock

    lock = settings.hf_home / "hub" / ".locks" / "models--you--loading" / "abc.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        for item, why in (("used", "in use"), ("pinned", "pinned"), ("loading", "being downloaded")):
            with pytest.raises(Busy, match=why):
                inventory.remove(items[f"you/{item}"], settings)
    assert {item.name: item.kept for item in inventory.everything(settings)} == {
        "you/used": "in use",
        "you/pinned": "pinned",
        "you/loading": "",
    }
    assert all((item.path / "snapshots").is_dir() for item in items.values())


def test_what_no_job_has_used_is_not_pi0q_s_to_remove(settings: Settings) -> None:
    repo(settings.hf_home, "you/own", used=None)
    earlier = repo(settings.hf_home, "you/earlier", used=None)
    (earlier / ".pi0q-whole-abc-0").touch()
    os.utime(earlier / ".pi0q-whole-abc-0", (DAY, DAY))
    assert named(settings, "you/own").kept == "no job of pi0q has used it"
    assert (named(settings, "you/earlier").kept, named(settings, "you/earlier").used) == ("", DAY)


def test_a_directory_with_files_of_someone_s_own_stays(settings: Settings) -> None:
    """The guide has `--local-dir .../hub/datasets--you--grab_box`: files that may be nowhere else."""
    folder = repo(settings.hf_home, "you/grab_box", kind="dataset")
    fill(folder / "data" / "chunk-000" / "file-000.parquet", 1)
    assert named(settings, "you/grab_box").kept == "holds files that are not the cache's (data)"
    # And one that is nothing else is not even listed.
    fill(settings.hf_home / "hub" / "datasets--you--own" / "data" / "file.parquet", 1)
    assert [item.name for item in inventory.everything(settings)] == ["you/grab_box"]


def test_a_file_that_has_another_name_frees_nothing(settings: Settings) -> None:
    folder = repo(settings.hf_home, "you/old")
    (blob,) = (folder / "blobs").iterdir()
    (settings.home / "kept").hardlink_to(blob)
    assert named(settings, "you/old").mib == 0


def test_compiled_kernels_go_whole_and_not_under_a_run(settings: Settings) -> None:
    fill(settings.home / "cache" / "inductor" / "fx" / "graph", 3)
    inventory.hold_derived(settings, compiles=False)
    assert (named(settings, "inductor").kind, named(settings, "inductor").kept) == ("kernels", "in use")
    usage_locks.release()
    # A run that compiles nothing is no use of them.
    os.utime(settings.home / "cache" / ".pi0q" / "inductor.used", (0, 0))
    assert inventory.remove(named(settings, "inductor"), settings) == 3
    assert not (settings.home / "cache" / "inductor").exists()
    assert inventory.everything(settings) == []


def test_tables_of_datasets_are_pi0q_s_only_where_the_cache_is(settings: Settings, tmp_path: Path) -> None:
    fill(settings.hf_home / "datasets" / "parquet" / "table.arrow", 1)
    assert named(settings, "arrow").kind == "tables"
    shared = replace(settings, hf_home=tmp_path / "shared")
    fill(shared.hf_home / "datasets" / "parquet" / "table.arrow", 1)
    assert [item.name for item in inventory.everything(shared)] == []
