"""What a box announces of the jobs that it does not take: values there, words for a person only."""

from __future__ import annotations

import json

import pytest

from pi0q.jobs.signing import wording
from pi0q.queue import refusals
from pi0q.queue.refusals import Refusal

EVERY_KIND: dict[str, tuple[Refusal, str]] = {
    "not_chosen": (
        refusals.NotChosen(key="gpu", wanted="H100", present="RTX 4090"),
        "the file keeps it from this box: resources.gpu is H100, and this box has RTX 4090",
    ),
    "not_trusted": (
        refusals.NotTrusted(job="a1", why="changed", key="k1"),
        wording.sentence("changed", job="a1", key="k1", detail=""),
    ),
    "problem": (refusals.Problem(text="trainer: none"), "trainer: none"),
    "drained": (refusals.Drained(), "the box is drained: `pi0q drain BOX --undo` lets it take jobs again"),
    "server_restarted": (
        refusals.ServerRestarted(seconds=12),
        "queue server restarted; waiting up to 12 s for boxes to report their running jobs",
    ),
    "starts_fail": (
        refusals.StartsFail(),
        "runner processes keep exiting at start-up; claims paused (see the worker log)",
    ),
    "without_cards": (
        refusals.WithoutCards(inputs="here"),
        "no-GPU mode: fetches inputs, claims nothing; what this job reads is here; start the box with its GPU to train",
    ),
    "retry_delay": (
        refusals.RetryDelay(reason="network", seconds=40),
        "its last run ended with network: retried in 40 s",
    ),
    "failed_here": (
        refusals.FailedHere(reason="no_cuda", seconds=40),
        "its last run here ended with no_cuda: left to other boxes for 40 s",
    ),
    "checkpoint_elsewhere": (
        refusals.CheckpointElsewhere(box="box-b", seconds=590),
        "waiting up to 590 s for box-b, which has its checkpoint",
    ),
    "preflight_runs": (refusals.PreflightRuns(), "preflight: asking the Hub and WandB for what the job needs"),
    "preflight_delay": (
        refusals.PreflightDelay(why="the Hub is away", seconds=9),
        "preflight: the Hub is away; asked again in 9 s",
    ),
    "gpus": (
        refusals.TooFewGpus(needed=2, present=0, fault="no driver"),
        "GPUs: needs 2, the box has none (no driver)",
    ),
    "vram": (
        refusals.TooLittleVram(
            needed_mib=92_160, gpus=2, fitting=1, free_mib=49_152, total_mib=81_920, promised_mib=1024
        ),
        "VRAM: needs 90.0 GiB on 2 GPUs, 1 have it; the best has 48.0 GiB of 80.0 GiB free "
        "(1.0 GiB more are promised to running jobs)",
    ),
    "taken": (
        refusals.CardsTaken(needed=2, fitting=1, taken=((0, "abc"), (3, "def"))),
        "GPUs: 1 of the 2 cards that it needs are free; card 0 is taken by job abc, card 3 is taken by job def",
    ),
    "reserved": (
        refusals.CardsReserved(job="abc", cards=(0, 2), seconds=5460),
        "GPUs: cards 0, 2 are kept for job abc, which may start in 1 h 31 min; "
        "only a job that is sure to end before gets in between: `time_limit: 2h` in its file says so",
    ),
    "slots": (refusals.SlotsInUse(used=2, slots=2), "2 of 2 slots are in use"),
    "disk": (
        refusals.TooLittleDisk(
            needed_mib=20_480,
            free_mib=-1024,
            path="/data",
            promised_mib=2048,
            caches=("the cache of a", "the cache of b", "the cache of c"),
            cache_count=5,
            cache_mib=10_240,
        ),
        "disk: needs 20.0 GiB, 0 MiB free on /data (2.0 GiB more are promised to running jobs) and 10.0 GiB more if "
        "the cache of a, the cache of b, the cache of c and 2 more go",
    ),
    "dataset_look": (refusals.DatasetLook(), "preflight: looking into the dataset"),
    "input": (
        refusals.BadInput(what="weights", why="/data/w is not on this box", reason="weights_damaged"),
        "weights: /data/w is not on this box",
    ),
    "inodes": (
        refusals.TooFewInodes(path="/data", free=5, needed=20_000),
        "inodes: /data can hold 5 more files, 20000 are needed",
    ),
    "system_disk": (
        refusals.TooLittleSystemDisk(free_mib=1024, reserve_mib=2048, commands=(("pip cache purge", 3174),)),
        "system disk: 1.0 GiB free, 2.0 GiB must stay free: `pip cache purge` frees up to 3.1 GiB",
    ),
}


def test_no_kind_is_forgotten_here() -> None:
    assert EVERY_KIND.keys() == refusals.KINDS.keys()


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_each_kind_arrives_as_it_was_sent_and_has_its_words(kind: str) -> None:
    value, text = EVERY_KIND[kind]
    assert refusals.loads(refusals.dumps({"a1": [value]})) == {"a1": (value,)}
    assert (value.kind, str(value)) == (kind, text)


def test_a_box_of_the_version_before_announces_a_string() -> None:
    text = "VRAM: needs 90.1 GiB on 1 GPU, 0 have it; the best has 48.0 GiB; disk: needs 81.4 GiB, 40.0 GiB free"
    assert refusals.loads(json.dumps({"a1": text})) == {"a1": (refusals.Problem(text=text),)}


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ({"kind": "tpus", "needed": 2, "present": 0}, "tpus: needed 2, present 0"),
        ({"kind": "vram", "needed_mib": 2}, "vram: needed_mib 2"),
        ({"kind": "drained", "by": "ada"}, "drained: by ada"),
        ({"kind": "odd"}, "odd"),
        (7, "7"),
    ],
)
def test_what_a_newer_box_announces_is_told_by_its_values(sent: object, text: str) -> None:
    (value,) = refusals.loads(json.dumps({"a1": [sent]}))["a1"]
    assert str(value) == text


@pytest.mark.parametrize("field", [None, "", "{}", "[]"])
def test_a_box_that_announced_none_refuses_nothing(field: str | None) -> None:
    assert refusals.loads(field) == {}
