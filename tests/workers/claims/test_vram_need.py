"""What a box reckons a waiting job needs before it claims it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
import redis

from pi0q.jobs.dataset import DatasetInfo, Images
from pi0q.jobs.estimates import job_needs
from pi0q.jobs.spec import Spec
from pi0q.jobs.vram_peak import Peak
from pi0q.queue import measured_peaks
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.submission import Known, new_fields, put
from pi0q.workers.claims.peaks import RememberedPeaks
from tests.workers.conftest import a_box

TRAIN: dict[str, Any] = {"dataset.repo_id": "you/box", "policy.type": "pi0", "policy.dtype": "bfloat16"}
FACTS = DatasetInfo(format="v3.0", episodes=4, videos=False, frame_bytes=1, cameras=3, height=480, width=640)


@pytest.mark.parametrize(
    ("facts", "known"),
    [
        ({}, False),
        (asdict(FACTS), True),
        ({**asdict(FACTS), "cameras": "3"}, False),
        ({**asdict(FACTS), "width": -1}, False),
    ],
)
def test_vram_is_reckoned_again_by_the_images_that_a_preflight_found(
    chosen: Settings, store: Store, facts: dict[str, Any], known: bool
) -> None:
    spec = Spec(name="x", train=TRAIN)
    job = replace(store.get(put(store, new_fields(spec))["id"]), preflight={"box-b": {"ok": True, "dataset": facts}})

    found = a_box(chosen, store).claims.admission.vram_mib(job)

    three = job_needs.estimate(spec, images=Images(cameras=3, height=480, width=640)).vram_mib
    assert found == (three if known else job.needs["vram_mib"])
    assert three > job.needs["vram_mib"]


def test_a_box_reckons_with_what_was_measured_as_the_submit_did(chosen: Settings, store: Store) -> None:
    spec = Spec(name="x", train=TRAIN)
    images = Images(cameras=3, height=480, width=640)
    store.keep_peak(
        measured_peaks.key(spec, images, "0.6"), peak_mib=60_000, oom_mib=0, run=("a1" * 6, "box-b"), done=True
    )
    submitted = put(store, new_fields(spec, Known(images=images, peak=measured_peaks.find(store, spec, images))))
    job = replace(store.get(submitted["id"]), preflight={"box-b": {"ok": True, "dataset": asdict(FACTS)}})
    assert a_box(chosen, store).claims.admission.vram_mib(job) == submitted["needs"]["vram_mib"] == 62_676


def test_peaks_are_asked_for_once_in_a_while_and_kept_while_the_server_is_away() -> None:
    asked, now = list[int](), [0.0]
    peak = Peak(peak_mib=5, job="a1" * 6, box="b", at_ms=1)

    class Answers:
        def peaks(self, keys: list[str]) -> dict[str, Peak]:
            asked.append(len(keys))
            if now[0] > 100:
                raise redis.ConnectionError
            return {"k": peak}

    known = RememberedPeaks(Answers(), clock=lambda: now[0])  # type: ignore[arg-type]
    assert known.peaks(["k", "l"]) == known.peaks(["k"]) == {"k": peak} and asked == [2]
    now[0] = 40.0
    assert known.peaks(["k", "l"]) == {"k": peak} and asked == [2, 2]
    now[0] = 200.0
    assert known.peaks(["k", "l"]) == {"k": peak} and known.peaks(["m"]) == {}
