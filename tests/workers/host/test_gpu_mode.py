"""Whether a box was started without its cards, by what it shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pi0q.workers.host import cgroup_memory, gpu_mode
from pi0q.workers.host.gpu_mode import Evidence, Mode, ModeReader, Smi, recognise


@pytest.mark.parametrize(
    ("seen", "mode"),
    [
        # AutoDL's container without its GPU: half a core, 2 GiB, an nvidia-smi that may not be run.
        (Evidence(cards=0, limit_mib=2048, smi=Smi.DENIED), Mode.NO_GPU_MODE),
        (Evidence(cards=0, limit_mib=2048, smi=Smi.ABSENT), Mode.NO_GPU_MODE),
        (Evidence(cards=0, limit_mib=2048, smi=Smi.FAILED), Mode.NO_GPU_MODE),
        (Evidence(cards=0, limit_mib=4096, smi=Smi.DENIED), Mode.NO_GPU_MODE),
        # A small container of another kind.
        (Evidence(cards=0, limit_mib=4096, smi=Smi.ABSENT), Mode.NO_CARD),
        # A driver that is broken on a machine of full size, or behind NVML: a fault, no mode.
        (Evidence(cards=0, limit_mib=None, smi=Smi.DENIED), Mode.NO_CARD),
        (Evidence(cards=0, limit_mib=120 * 1024, smi=Smi.DENIED), Mode.NO_CARD),
        (Evidence(cards=0, limit_mib=2048, smi=Smi.LISTED), Mode.NO_CARD),
        # Cards are cards, however little memory there is.
        (Evidence(cards=1, limit_mib=2048, smi=Smi.DENIED), Mode.CARDS),
        (Evidence(cards=8, limit_mib=None), Mode.CARDS),
    ],
)
def test_the_mode_follows_from_cards_memory_and_nvidia_smi(seen: Evidence, mode: Mode) -> None:
    assert recognise(seen) is mode


@pytest.mark.parametrize(
    ("code", "output", "found"),
    [
        (0, "GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-1)\n", Smi.LISTED),
        (0, "No devices found.\n", Smi.FAILED),
        (4, "Failed to initialize NVML: Insufficient Permissions\n", Smi.DENIED),
        (126, "bash: /usr/bin/nvidia-smi: Permission denied\n", Smi.DENIED),
        (9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", Smi.FAILED),
    ],
)
def test_what_nvidia_smi_says(code: int, output: str, found: Smi) -> None:
    assert gpu_mode.read_smi(code, output) is found


@pytest.mark.skipif(os.getuid() == 0, reason="root may run what nobody may")
def test_an_nvidia_smi_that_may_not_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o000)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_mode.ask_smi() is Smi.DENIED


def test_an_nvidia_smi_that_says_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for AutoDL's; what it prints goes to standard error."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Insufficient Permissions' >&2\nexit 4\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpu_mode.ask_smi() is Smi.DENIED
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_mode.ask_smi() is Smi.ABSENT


def test_nvidia_smi_is_asked_once_and_only_in_a_small_container_without_a_card(tmp_path: Path) -> None:
    asked, limit = list[int](), 120 * 1024

    def smi() -> Smi:
        asked.append(1)
        return Smi.DENIED

    reader = ModeReader(limit_mib=lambda: limit, smi=smi)
    assert (reader.mode(0), reader.mode(2), asked) == (Mode.NO_CARD, Mode.CARDS, [])
    limit = 2048
    assert (reader.mode(1), asked) == (Mode.CARDS, [])
    assert ModeReader(limit_mib=lambda: limit, smi=smi, simulated=True).mode(0) is Mode.NO_CARD
    assert (reader.mode(0), reader.mode(0), asked) == (Mode.NO_GPU_MODE, Mode.NO_GPU_MODE, [1])


def test_the_limit_is_that_of_the_containers_group(tmp_path: Path) -> None:
    cgroups, own = tmp_path / "cgroup", tmp_path / "own"
    cgroups.mkdir()
    (cgroups / "cgroup.controllers").write_text("memory\n")
    (cgroups / "memory.max").write_text(f"{2 << 30}\n")
    own.write_text("0::/kubepods/of-the-host\n")
    reader = ModeReader(
        limit_mib=lambda: cgroup_memory.container_limit_mib(cgroup_memory.groups(cgroups, own)),
        smi=lambda: Smi.ABSENT,
    )
    assert reader.mode(0) is Mode.NO_GPU_MODE
