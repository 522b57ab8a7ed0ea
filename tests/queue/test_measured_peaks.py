"""Measured VRAM of earlier jobs: kept by the server, used by submits, shown where needs are shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pi0q.jobs.dataset import Images
from pi0q.jobs.estimates import job_needs
from pi0q.jobs.spec import Resources, Spec, parse
from pi0q.jobs.vram_peak import Peak
from pi0q.queue import hub_lookup, measured_peaks
from pi0q.queue.store import Store
from tests.conftest import Command
from tests.standin_hub import StandInHub

CAMERAS = {f"observation.images.{side}": {"dtype": "video", "shape": [480, 640, 3]} for side in ("left", "right")}
INFO = {"codebase_version": "v3.0", "total_episodes": 4, "features": CAMERAS}
IMAGES = Images(cameras=2, height=480, width=640)
JOB = "train: {dataset: {repo_id: you/box}, policy: {type: act, device: cuda, push_to_hub: false}, steps: 5}"
RUN = ("a1a1a1a1a1a1", "box-a")


def spec(text: str = JOB) -> Spec:
    return parse(text, filename="standard.yaml")


def keep(store: Store, peak_mib: int = 20_000, *, oom_mib: int = 0, done: bool = True, **how: Any) -> Peak:
    key = how.get("key") or measured_peaks.key(spec(), IMAGES, how.get("line", "0.6"))
    store.keep_peak(key, peak_mib=peak_mib, oom_mib=oom_mib, run=how.get("run", RUN), done=done)
    return store.peaks([key])[key]


def test_the_largest_peak_of_a_shape_counts(store: Store) -> None:
    first = keep(store, 20_000)
    assert (first.peak_mib, first.job, first.box) == (20_000, *RUN)
    assert keep(store, 19_000, run=("b" * 12, "box-b")) == first
    more = keep(store, 21_000, run=("b" * 12, "box-b"))
    assert (more.peak_mib, more.job, more.box) == (21_000, "b" * 12, "box-b")


def test_an_out_of_memory_raises_the_need_until_a_run_comes_to_its_end_with_less(store: Store) -> None:
    before = keep(store, 20_000)
    short = keep(store, 0, oom_mib=24_000, done=False)
    assert (short.peak_mib, short.oom_mib) == (20_000, 24_000) and short.need_mib(0) > 24_000 > before.need_mib(0)
    assert keep(store, 0, oom_mib=23_000, done=False).oom_mib == 24_000
    assert keep(store, 20_100, done=False).oom_mib == 24_000
    assert keep(store, 20_100, done=True).oom_mib == 0


def test_shapes_that_were_measured_longest_ago_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pi0q.queue.store.MOST_SHAPES", 3)
    keys = [f"{number:032x}" for number in range(5)]
    for number, key in enumerate(keys):
        keep(store, 1000 + number, key=key)
        store.client.zadd(store.prefix + "peaks:age", {key: number})
    assert sorted(store.peaks(keys)) == keys[2:]
    assert store.client.zcard(store.prefix + "peaks:age") == store.client.hlen(store.prefix + "peaks") == 3


@pytest.mark.parametrize("text", ["", "[]", "{", '{"peak_mib": 1}', '{"peak_mib": 1e99}', "5"])
def test_a_peak_that_pi0q_did_not_write_is_none(store: Store, text: str) -> None:
    store.client.hset(store.prefix + "peaks", "k", text)
    assert store.peaks(["k", "absent"]) == {}
    # And is written anew.
    assert keep(store, 5000, key="k").peak_mib == 5000


def test_the_largest_of_all_lerobots_counts(store: Store) -> None:
    keep(store, 20_000, line="0.6")
    older = keep(store, 22_000, line="0.5")
    assert measured_peaks.find(store, spec(), IMAGES) == older


def test_nothing_is_looked_up_for_a_job_whose_vram_is_not_in_question(store: Store) -> None:
    keep(store)
    one = spec()
    assert measured_peaks.find(store, one, IMAGES) is not None
    for other in (
        replace(one, rehearsal=True),
        replace(one, resources=Resources(vram_mib=5)),
        replace(one, resources=Resources(gpus=0)),
    ):
        assert measured_peaks.find(store, other, IMAGES) is None
    assert measured_peaks.find(store, one, None) is None


# -- what users see -----------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    monkeypatch.setattr(hub_lookup, "PATIENCE_SECONDS", 60.0)
    with StandInHub() as hub:
        hub.commit("dataset", "you/box", {"meta/info.json": json.dumps(INFO).encode()}, refs=("main",))
        yield hub


def submit(call: Command, hub: StandInHub, *args: str, job: str = JOB, **env: str) -> tuple[str, str]:
    told = call("submit", "-", *args, stdin=job, HF_HUB_OFFLINE="", PI0Q_HF_ENDPOINT=hub.url, **env)
    assert told.returncode == 0, told.stderr
    return told.stdout, told.stderr


def test_a_submit_uses_what_was_measured_and_says_so(call: Command, hub: StandInHub, store: Store) -> None:
    estimate = job_needs.estimate(spec(), images=IMAGES).vram_mib
    peak = keep(store, 20_000)
    out, err = submit(call, hub, "--json")
    told = json.loads(out)
    job = store.get(told["id"])
    assert job.needs["vram_mib"] == told["needs"]["vram_mib"] == peak.need_mib(0) != estimate
    assert job.measured == peak and told["measured"] == peak.to_json()
    line = f"VRAM {peak.need_mib(0) / 1024:.1f} GiB: measured on job {RUN[0]} (box-a, "
    assert line in err and f"; the estimate said {estimate / 1024:.1f} GiB" in err
    assert f"vram {peak.need_mib(0) / 1024:.1f} GiB: measured on job {RUN[0]}" in call("why", job.id).stdout


def test_without_a_measurement_a_submit_estimates_and_says_nothing(
    call: Command, hub: StandInHub, store: Store
) -> None:
    keep(store, 20_000, key=measured_peaks.key(spec(JOB.replace("act,", "act, dim_model: 256,")), IMAGES, "0.6"))
    out, err = submit(call, hub, "--json")
    job = store.get(json.loads(out)["id"])
    assert err == "" and job.measured is None
    assert job.needs["vram_mib"] == job_needs.estimate(spec(), images=IMAGES).vram_mib


def test_a_dry_run_says_measured_or_estimated(call: Command, hub: StandInHub, store: Store) -> None:
    assert "a guess" in submit(call, hub, "--dry-run")[0] or "measured peaks lie" in submit(call, hub, "--dry-run")[0]
    keep(store, 20_000)
    assert f"measured on job {RUN[0]}" in submit(call, hub, "--dry-run")[0]


def test_a_dry_run_needs_no_server(call: Command, hub: StandInHub) -> None:
    out, _ = submit(call, hub, "--dry-run", PI0Q_REDIS_URL="redis://127.0.0.1:1/0")
    assert "the file is good" in out


def test_after_an_out_of_memory_a_submit_asks_for_more(call: Command, hub: StandInHub, store: Store) -> None:
    keep(store, 20_000)
    keep(store, 0, oom_mib=30_000, done=False)
    out, err = submit(call, hub, "--json")
    assert json.loads(out)["needs"]["vram_mib"] == 33_000
    assert "a job of this shape ran out of memory with 29.3 GiB" in err
