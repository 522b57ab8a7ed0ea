"""The next line of LeRobot is a table and a line in RELEASES: a made-up 0.7.0 with Trackio in the place of WandB."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pi0q.jobs import command
from pi0q.jobs.schema import flags, later_flags, lerobot_tables
from pi0q.jobs.schema.lerobot_tables import RELEASES
from pi0q.jobs.spec import Spec, parse

NEXT = "0.7.0"
JOB = "train:\n  dataset: {{repo_id: me/box}}\n  policy: {{type: act, push_to_hub: false}}\n  {more}\n"
#: What 0.7.0's release notes name; types and defaults are made up.
ROWS = (
    "trackio.enable\t-\tbool\tfalse",
    'trackio.project\t-\tstr\t"lerobot"',
    "trackio.space_id\t-\tstr | null\tnull",
    "parallelism.dp_shard\t-\tint\t1",
    "parallelism.dp_replicate\t-\tint\t1",
    'accelerator.mixed_precision\t-\tstr\t"no"',
    "ema.enable\t-\tbool\tfalse",
    "dataset.exclude_episodes\t-\tlist[int] | null\tnull",
)


def forget() -> None:
    """Drop what was read of the tables."""
    cached = (lerobot_tables.table, flags._flag, flags._is_taken, flags._registered, flags.refused_types)
    for read in (*cached, later_flags.later):
        read.cache_clear()
    flags.FLAGS.__dict__.pop("names", None)


@pytest.fixture
def next_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A directory of tables with one more, which the release notes of 0.7.0 could have."""
    for file in lerobot_tables.DIRECTORY.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    rows = (tmp_path / f"{RELEASES['0.6']}.tsv").read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if not row.startswith("wandb.")]
    (tmp_path / f"{NEXT}.tsv").write_text("\n".join([*kept, *ROWS]) + "\n", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(lerobot_tables, "DIRECTORY", tmp_path)
        patch.setitem(RELEASES, "0.7", NEXT)
        forget()
        yield
    forget()


def job(more: str, rest: str = "") -> Spec:
    return parse(rest + JOB.format(more=more), filename="job.yaml")


def argv(spec: Spec, lerobot: str) -> tuple[str, ...]:
    return command.fresh(spec, lerobot=lerobot, output_dir="/d/output", run_id="pi0q1").argv


def of(section: str, told: tuple[str, ...]) -> list[str]:
    return [word for word in told if word.startswith(f"--{section}.")]


@pytest.mark.usefixtures("next_release")
def test_next_release_gets_its_own_trackers_flags_and_no_wandb_flag() -> None:
    spec = job("trackio: {enable: true, project: box, space_id: lab}")

    told = argv(spec, NEXT)

    assert of("trackio", told) == ["--trackio.enable=true", "--trackio.project=box", "--trackio.space_id=lab"]
    assert of("wandb", told) == []
    assert flags.problems(spec.train, NEXT) == []
    assert "trackio.enable is unknown to LeRobot 0.6.1; LeRobot 0.7 has it" in flags.problems(spec.train, "0.6.1")


@pytest.mark.usefixtures("next_release")
def test_job_with_wandb_is_refused_by_the_next_release_and_never_passed_to_it() -> None:
    spec = job("wandb: {enable: true, project: box}")

    assert flags.problems(spec.train, NEXT)[0].startswith(f"wandb.enable is unknown to LeRobot {NEXT}; LeRobot 0.4")
    assert of("wandb", argv(spec, NEXT)) == [] and of("trackio", argv(spec, NEXT)) == []
    assert "--wandb.run_id=pi0q1" in argv(spec, "0.6.1")


@pytest.mark.usefixtures("next_release")
@pytest.mark.parametrize("lerobot", [NEXT, "0.6.1"])
def test_tracker_that_is_off_keeps_a_job_from_no_release(lerobot: str) -> None:
    spec = job("wandb: {enable: false, project: box}\n  trackio.enable: false")

    assert flags.problems(spec.train, lerobot) == []
    assert of("trackio" if lerobot != NEXT else "wandb", argv(spec, lerobot)) == []


@pytest.mark.usefixtures("next_release")
def test_mixed_precision_is_a_flag_where_the_release_has_one_else_accelerates_variable() -> None:
    spec = job("steps: 5", rest="launch: {mixed_precision: bf16}\n")
    built = partial(command.fresh, spec, output_dir="/d/output", run_id="pi0q1")

    new, old = built(lerobot=NEXT), built(lerobot="0.6.1")

    assert "--accelerator.mixed_precision=bf16" in new.argv and "ACCELERATE_MIXED_PRECISION" not in new.env
    assert not of("accelerator", old.argv) and old.env["ACCELERATE_MIXED_PRECISION"] == "bf16"


@pytest.mark.usefixtures("next_release")
def test_table_that_has_later_flags_takes_them() -> None:
    spec = job("ema.enable: true\n  parallelism.dp_shard: 2\n  dataset.exclude_episodes: [3]")

    assert flags.problems(spec.train, NEXT) == []
    assert {"--ema.enable=true", "--dataset.exclude_episodes=[3]"} <= set(argv(spec, NEXT))


def test_next_release_is_refused_by_name_while_it_has_no_table() -> None:
    (told,) = flags.problems({"policy.type": "act"}, NEXT)

    assert told.startswith(f"LeRobot {NEXT} is none that this pi0q knows the flags of (0.4.x, 0.5.x, 0.6.x).")
