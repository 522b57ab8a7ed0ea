"""References to other jobs in a job file, and what a record keeps of them."""

from __future__ import annotations

import pytest

from pi0q.jobs import start_point
from pi0q.jobs.errors import BadRecord, SpecError
from pi0q.jobs.record import from_hash, to_hash
from pi0q.jobs.spec import parse
from pi0q.jobs.start_point import Reference, StartPoint

START = StartPoint(job="a1a1a1a1a1a1", step=20, manifest="ab" * 32, lerobot="0.6.1")
FILE = 'train: {{dataset: {{repo_id: a/b}}, policy: {{type: act, pretrained_path: "{}"}}}}'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("job:grab_box", Reference(job="grab_box")),
        ("job:grab_box@2000", Reference(job="grab_box", step=2000)),
        ("job:a@b", Reference(job="a@b")),
        ("job:my box@0", Reference(job="my box", step=0)),
        ("lerobot/pi0", None),
        ("/data/job:x", None),
        (None, None),
        (["job:x"], None),
    ],
)
def test_parse_reads_a_job_and_a_step(text: object, found: Reference | None) -> None:
    assert start_point.parse(text) == found
    if found:
        assert start_point.parse(str(found)) == found


@pytest.mark.parametrize("text", ["job:", "job:@5", "job:x@", "job:-x"])
def test_spec_refuses_a_reference_without_job_or_step(text: str) -> None:
    with pytest.raises(SpecError, match=r"job\.yaml:1: train\.policy\.pretrained_path .*job:NAME"):
        parse(FILE.format(text), filename="job.yaml")


@pytest.mark.parametrize("text", ["job:grab_box", "job:a1a1a1a1a1a1@20"])
def test_spec_takes_a_reference_and_gives_it_back(text: str) -> None:
    spec = parse(FILE.format(text), filename="job.yaml")
    assert str(start_point.reference_of(spec.train)) == text
    assert type(spec).from_json(spec.to_json()) == spec


def test_a_flag_that_names_a_repository_alone_takes_no_job() -> None:
    with pytest.raises(SpecError, match="must be a Hugging Face repository"):
        parse("train: {dataset: {repo_id: a/b}, policy: {type: smolvla, vlm_model_name: 'job:x'}}", filename="j.yaml")


def record(starts_from: str) -> object:
    return from_hash({"id": "b" * 12, "name": "n", "state": "queued", "created_ms": "5", "starts_from": starts_from})


def test_record_keeps_a_start_point() -> None:
    text = to_hash({"starts_from": START.to_json()})["starts_from"]
    assert getattr(record(text), "starts_from") == START  # noqa: B009
    assert getattr(record(""), "starts_from") is None  # noqa: B009


@pytest.mark.parametrize(
    "change",
    [
        {"job": "../../etc"},
        {"step": -1},
        {"step": "20"},
        {"manifest": "x"},
        {"lerobot": "0.6.1; rm"},
        {"more": 1},
    ],
)
def test_record_refuses_a_start_point_that_pi0q_does_not_write(change: dict[str, object]) -> None:
    with pytest.raises(BadRecord, match="starts_from is not a job's id, a step and a manifest as JSON"):
        record(to_hash({"starts_from": START.to_json() | change})["starts_from"])
