"""One run's compiled kernels: packed after its first save, brought elsewhere only with the owner's consent."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.compiled_kernels import ARCHIVE, MANIFEST
from pi0q.jobs.record import from_hash
from pi0q.jobs.spec import parse
from pi0q.queue.settings import Settings
from pi0q.workers.compiled import sharing
from pi0q.workers.compiled.sharing import CompiledKernels
from pi0q.workers.host import cache_paths, usage_locks
from pi0q.workers.runs.eta import SaveSchedule
from pi0q.workers.runs.lease import Lease, boottime
from pi0q.workers.runs.progress import Progress
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.runs.run_request import RunRequest
from pi0q.workers.storage import inventory
from tests.jobs.test_compiled_kernels import FOR
from tests.workers.checkpoints.replication import saved, until

JOB, OTHER = "a" * 12, "b" * 12
FILE = """
resources: {{gpus: 0}}
checkpoints: {{copy_to: {place}}}
train: {{dataset: {{repo_id: l/d}}, policy: {{type: diffusion, device: cpu, compile_model: {compiles}}}}}
"""


def spec(place: object, compiles: str = "true") -> Any:
    return parse(FILE.format(place=place, compiles=compiles), filename="job.yaml")


class Boxes:
    """Two boxes that share a directory."""

    def __init__(self, place: Path, settings: Settings) -> None:
        self.place, self.settings = place, settings
        (place / "share").mkdir()
        self.opened: list[CompiledKernels] = []

    def run(self, box: str, job: str = JOB, *, named: Any = None, gpus: Any = FOR.gpus, **how: Any) -> CompiledKernels:
        """A run of the job on this box, whose record names these manifests."""
        home = self.place / box
        settings = replace(self.settings, home=home, **{"share_compiled": "own", **how})
        record = from_hash({"id": job, "name": "n", "state": "running", "created_ms": "5"})
        context = RunContext(
            request=RunRequest(job_id=job, epoch=1, python="", lerobot=""),
            record=replace(record, compiled=named or {}),
            raw={},
            spec=spec(self.place / "share"),
            settings=settings,
            directory=RunDirectory(home / "runs" / job),
            box=box,
        )
        context.directory.make()
        Lease(context.directory.lease, seconds=10**6, fence=10**6, since=boottime())
        progress = Progress(SaveSchedule(steps=0, save_freq=10, every_seconds=None))
        made = CompiledKernels(context, progress, place=str(self.place / "share"), compiled_for=replace(FOR, gpus=gpus))
        self.opened.append(made)
        return made

    def packed(self, **how: Any) -> CompiledKernels:
        """A run that compiled, saved, and whose kernels lie in the shared directory."""
        run = self.run("box-a", **how)
        compile_into(run)
        run.on_sealed(saved(10))
        until(lambda: run.progress.fields.get("compiled"))
        return run


@pytest.fixture
def boxes(tmp_path: Path, chosen: Settings) -> Any:
    made = Boxes(tmp_path, chosen)
    yield made
    for run in made.opened:
        run.on_exit()
    usage_locks.release()


def compile_into(run: CompiledKernels, data: bytes = b"kernel") -> None:
    place = Path(run.environment()["TORCHINDUCTOR_CACHE_DIR"]) / "ab"
    place.mkdir(parents=True)
    (place / "k.py").write_bytes(data)


def kernels(run: CompiledKernels) -> list[bytes]:
    return [path.read_bytes() for path in run.directory.rglob("k.py")]


def test_kernels_are_packed_after_the_first_save_and_brought_to_the_next_box_of_the_job(boxes: Boxes) -> None:
    first = boxes.packed()
    second = boxes.run("box-b", named=first.progress.fields["compiled"])
    second.bring()
    assert kernels(second) == [b"kernel"]
    assert second.environment()["TRITON_CACHE_DIR"].startswith(str(boxes.place / "box-b"))


def test_record_that_names_no_manifest_brings_nothing(boxes: Boxes) -> None:
    boxes.packed()
    second = boxes.run("box-b")
    second.bring()
    assert not second.directory.exists()


def test_archive_that_changed_is_refused_with_a_warning(boxes: Boxes, caplog: pytest.LogCaptureFixture) -> None:
    first = boxes.packed()
    path = boxes.place / "share" / "compile" / FOR.key / JOB / ARCHIVE
    path.write_bytes(path.read_bytes().replace(b"kernel", b"KERNEL"))
    second = boxes.run("box-b", named=first.progress.fields["compiled"])
    with caplog.at_level(logging.WARNING):
        second.bring()
    assert not second.directory.exists()
    assert "refused compiled kernels" in caplog.text and "other bytes than were packed" in caplog.text


def test_kernels_for_another_gpu_are_not_looked_at(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    first = boxes.packed()
    second = boxes.run("box-b", named=first.progress.fields["compiled"], gpus=("NVIDIA H100 9.0",))
    monkeypatch.setattr(second, "_ask", lambda _: pytest.fail("it looked"))
    second.bring()
    assert not second.directory.exists()


def test_kernels_of_another_job_come_only_out_of_a_directory_that_the_owner_lists(boxes: Boxes) -> None:
    boxes.packed()
    share = (boxes.place / "share").resolve()
    for refused in ({"share_compiled": "own", "copy_roots": (share,)}, {"share_compiled": "listed"}):
        run = boxes.run("box-b", OTHER, **refused)
        run.bring()
        assert not run.directory.exists()
        # Each run is a process of its own.
        usage_locks.release()
    run = boxes.run("box-b", OTHER, share_compiled="listed", copy_roots=(share,))
    run.bring()
    assert kernels(run) == [b"kernel"]


def test_kernels_that_this_box_compiled_itself_are_kept(boxes: Boxes) -> None:
    first = boxes.packed()
    again = boxes.run("box-a", named=first.progress.fields["compiled"])
    (again.directory / "inductor" / "ab" / "k.py").write_bytes(b"newer")
    again.bring()
    assert kernels(again) == [b"newer"]


def test_kernels_that_another_run_compiles_now_are_left_alone(boxes: Boxes) -> None:
    first = boxes.packed()
    second = boxes.run("box-b", named=first.progress.fields["compiled"])
    compile_into(second, b"half")
    usage_locks.hold(usage_locks.of_box(second.settings.home), cache_paths.compiled_name(second.directory))
    second.bring()
    assert kernels(second) == [b"half"]


def test_archive_that_is_there_is_not_packed_again(boxes: Boxes) -> None:
    first = boxes.packed()
    manifest = boxes.place / "share" / "compile" / FOR.key / JOB / MANIFEST
    before = manifest.stat().st_ino
    second = boxes.run("box-b", named=first.progress.fields["compiled"])
    second.bring()
    second._pack()
    assert manifest.stat().st_ino == before


def test_cache_lists_the_kernels_of_each_key_and_may_remove_them(boxes: Boxes) -> None:
    run = boxes.run("box-a")
    compile_into(run, b"k" * 2**20)
    (item,) = [one for one in inventory.derived(run.settings) if one.name.startswith("compiled-")]
    assert (item.kind, item.name, item.mib, item.kept) == ("kernels", f"compiled-{FOR.key[:12]}", 1, "")
    usage_locks.hold(usage_locks.of_box(run.settings.home), item.name)
    assert inventory.as_now(item, run.settings).kept == "in use"
    usage_locks.release()
    assert inventory.remove(item, run.settings) == 1 and not run.directory.exists()


@pytest.mark.parametrize(
    ("consent", "place", "compiles", "travel"),
    [
        ("off", "/share", "true", False),
        ("own", "/share", "true", True),
        ("listed", "/share", "true", True),
        ("own", "/share", "false", False),
        ("own", "null", "true", False),
        ("own", "hf://me/x", "true", False),
    ],
)
def test_kernels_travel_only_with_consent_through_a_directory_for_jobs_that_compile(
    chosen: Settings, consent: str, place: str, compiles: str, travel: bool
) -> None:
    found = sharing.place_of(spec(place, compiles), replace(chosen, share_compiled=consent))
    assert found == (place if travel else "")


def test_consent_is_not_given_by_default(chosen: Settings) -> None:
    assert chosen.share_compiled == "off"
