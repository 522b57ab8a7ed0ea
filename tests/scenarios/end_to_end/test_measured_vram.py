"""The VRAM that a training held is what the next one of its shape is promised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pi0q.jobs.record import Record
from pi0q.jobs.vram_peak import Peak

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster


def submit(cluster: Cluster, name: str, steps: int) -> str:
    """Queue a job whose file states no VRAM."""
    train = {
        "dataset": {"repo_id": "local/grab_box", "root": "datasets/grab_box"},
        "policy": {"type": "act", "device": "cuda", "push_to_hub": False},
        "steps": steps,
        "batch_size": 2,
    }
    job = {"name": name, "resources": {"disk": "10MiB"}, "train": train, "preflight": {"rehearse": "never"}}
    file = cluster.place / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    said = cluster.pi0q("submit", str(file), "--again", "--json")
    assert said.returncode == 0, said.stderr
    return str(json.loads(said.stdout)["id"])


def gpu_box(cluster: Cluster, dataset: Path, **env: Any) -> Box:
    """A box with a real dataset: it looks into the files of one whose cameras it goes by."""
    shutil.copytree(dataset, cluster.place / "box-a" / "datasets" / "grab_box")
    box = cluster.box(gpus=[80], **env)
    shutil.copy(dataset / "meta" / "info.json", box.home / "datasets" / "grab_box" / "meta" / "info.json")
    return box


def peaks(cluster: Cluster) -> list[Peak]:
    keys = [str(key) for key in cluster.store.client.hkeys(f"{cluster.prefix}peaks")]
    return list(cluster.store.peaks(keys).values())


def pace(cluster: Cluster) -> dict[str, Any]:
    """What a step of the one known shape took, by kind of card."""
    (text,) = cluster.store.client.hvals(f"{cluster.prefix}paces")
    return dict(json.loads(text))


def promised(cluster: Cluster, job: str) -> int:
    """The VRAM that is promised to a running job, MiB."""
    keys = list(cluster.store.client.scan_iter(f"{cluster.prefix}promises:*FAKE*"))
    return int(cluster.store.client.hget(str(keys[0]), job) or 0)


def test_the_next_job_of_a_shape_is_promised_what_the_first_one_held(cluster: Cluster, standin_dataset: Path) -> None:
    gpu_box(cluster, standin_dataset, FAKE_VRAM_MIB="31000")
    first: Record = cluster.ends(submit(cluster, "first", 40))
    assert first.vram_peak_mib == 31_000
    (peak,) = peaks(cluster)
    assert (peak.peak_mib, peak.oom_mib, peak.job, peak.box) == (31_000, 0, first.id, "box-a")
    assert [(one["jobs"], one["box"]) for one in pace(cluster).values()] == [(1, "box-a")]
    cluster.slow_down(5)
    second = submit(cluster, "second", 400)
    cluster.until(second, lambda record: record.step and record.step >= 2)
    assert promised(cluster, second) == peak.need_mib(0) > 31_000
    cluster.store.cancel(second, text="enough was seen")
    cluster.speed_up()
    cluster.ends(second)


def test_an_out_of_memory_raises_what_the_next_job_of_its_shape_asks_for(
    cluster: Cluster, standin_dataset: Path
) -> None:
    gpu_box(cluster, standin_dataset, FAKE_VRAM_MIB="31000")
    failed = cluster.ends(submit(cluster, "oom@30", 40))
    assert str(failed.reason) == "cuda_out_of_memory"
    (peak,) = peaks(cluster)
    assert peak.peak_mib == 0 and peak.oom_mib >= 31_000 and peak.job == failed.id
    cluster.slow_down(5)
    second = submit(cluster, "second", 400)
    cluster.until(second, lambda record: record.step and record.step >= 2)
    assert promised(cluster, second) > 31_000
    cluster.store.cancel(second, text="enough was seen")
    cluster.speed_up()
    cluster.ends(second)
