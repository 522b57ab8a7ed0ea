"""What a box has free, measured."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pi0q.queue.settings import Settings
from pi0q.workers.host import nvml, probe

CARDS = ({"name": "RTX PRO 6000", "total_gib": 97, "used_gib": 1.5}, {"total_gib": 24})


def test_simulated_cards_are_marked_and_named_after_their_box(tmp_path: Path) -> None:
    first, second = probe.measure(Settings(home=tmp_path, fake_gpus=CARDS), box="box-a").gpus
    assert first == probe.Gpu(
        uuid="FAKE-box-a-0", name="RTX PRO 6000", total_mib=97 * 1024, free_mib=97_792, simulated=True
    )
    assert (second.uuid, second.free_mib, second.resource) == ("FAKE-box-a-1", 24 * 1024, "gpu:FAKE-box-a-1")


def test_a_box_with_no_simulated_card_has_none_whatever_the_driver_says(tmp_path: Path) -> None:
    host = probe.measure(Settings(home=tmp_path, fake_gpus=()), box="box-a")
    assert (host.gpus, host.gpu_fault) == ((), "")


def test_either_there_are_real_cards_or_a_reason_why_not() -> None:
    gpus, fault = probe.nvml_gpus()
    assert bool(gpus) != bool(fault)
    assert all(0 <= gpu.free_mib <= gpu.total_mib and not gpu.simulated for gpu in gpus)


def test_a_broken_driver_is_a_reason_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        """As pynvml's."""

    def broken() -> int:
        raise NVMLError("Driver/library version mismatch")

    monkeypatch.setattr(nvml, "load", lambda: SimpleNamespace(NVMLError=NVMLError, nvmlDeviceGetCount=broken))
    assert probe.nvml_gpus() == ((), "Driver/library version mismatch")


def test_a_disk_is_known_before_the_directory_is_made(tmp_path: Path) -> None:
    disk, later = probe.disk(tmp_path), probe.disk(tmp_path / "not" / "yet")
    assert disk.resource == later.resource
    assert later.path == str(tmp_path)
    assert not (tmp_path / "not").exists()


def test_a_disk_says_what_a_user_may_still_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = os.statvfs(tmp_path)
    # Others write meanwhile.
    monkeypatch.setattr(os, "statvfs", lambda path: stats)
    disk = probe.disk(tmp_path)
    assert disk.free_mib == stats.f_bavail * stats.f_frsize // 2**20
    assert disk.free_inodes is None or disk.free_inodes > 0


def test_another_file_system_is_another_resource(tmp_path: Path) -> None:
    assert probe.disk(tmp_path).resource != probe.disk(Path("/proc")).resource
