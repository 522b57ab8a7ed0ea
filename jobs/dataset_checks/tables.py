"""Hold the tables of tasks and episodes against the data and the job."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from pi0q.jobs.dataset_checks.contents import DatasetContents
from pi0q.jobs.dataset_checks.finding import Finding, Source
from pi0q.jobs.dataset_checks.policy_inputs import READS_TASKS, PolicyInputs
from pi0q.jobs.outcome import Reason
from pi0q.jobs.schema.value_types import Value

TASKS, EPISODES = "meta/tasks.parquet", "meta/episodes"


def check(contents: DatasetContents, inputs: PolicyInputs, train: Mapping[str, Value], at: Source) -> Iterator[Finding]:
    """Yield what LeRobot would stumble over in them."""
    yield from _tasks(contents, inputs, at)
    yield from _episodes(contents, train, at)


def _tasks(contents: DatasetContents, inputs: PolicyInputs, at: Source) -> Iterator[Finding]:
    tasks = contents.tasks
    if contents.total_tasks == 0 and contents.version.startswith("v3"):
        yield Finding(
            what="meta/info.json says that there are no tasks, so LeRobot reads none and finds none for a frame",
            where="meta/info.json: total_tasks",
            cure=f"write the number of rows of {TASKS} there{at.after}",
        )
    if tasks is None:
        return
    if not tasks.indexed_by_text and inputs.kind in READS_TASKS:
        yield Finding(
            what="The texts of the tasks are a column of the table and not its index, so this policy gets none "
            "(LeRobot: Task cannot be None)",
            where=TASKS,
            cure=f"write the table with `tasks.set_index('task')`{_python(at)}{at.after}",
        )
    if contents.max_task is not None and contents.max_task >= tasks.rows:
        yield Finding(
            what=f"Frames have the task_index {contents.max_task}, and the table has {tasks.rows} "
            f"task{'s' * (tasks.rows != 1)} (LeRobot: single positional indexer is out-of-bounds)",
            where=f"{TASKS}; data/: task_index",
            cure=f"add the tasks that are missing to the table{at.after}",
        )


def _python(at: Source) -> str:
    place = at.root or "."
    return (
        f": `python -c \"import pandas as p; f='{place}/{TASKS}'; p.read_parquet(f).set_index('task').to_parquet(f)\"`"
    )


def _episodes(contents: DatasetContents, train: Mapping[str, Value], at: Source) -> Iterator[Finding]:
    episodes, total = contents.episodes, contents.total_episodes
    if contents.absent_episodes:
        first = contents.absent_episodes[0]
        yield Finding(
            what=f"No frame belongs to episode {first}"
            + (f" and {len(contents.absent_episodes) - 1} others" if len(contents.absent_episodes) > 1 else "")
            + ", so LeRobot would ask the Hub for the rest",
            where="data/: episode_index",
            cure="copy the dataset here again, or leave them out with `train.dataset.episodes`",
        )
    if episodes is None:
        return
    if total is not None and episodes.rows < total:
        yield Finding(
            what=f"meta/info.json counts {total} episodes, and their table has {episodes.rows}",
            where=EPISODES,
            cure=f"copy {EPISODES} here again" if at.root else f"upload {at.repo_id} whole, then let the job go on",
        )
    # With chosen episodes LeRobot goes by the numbers of the rows themselves.
    if contents.rows is not None and episodes.frames > contents.rows and not train.get("dataset.episodes"):
        yield Finding(
            what=f"The table of episodes counts {episodes.frames} frames, and the data have {contents.rows}",
            where=f"{EPISODES}: dataset_to_index",
            cure="copy data/ and meta/ here again, from one state of the dataset",
        )
    yield from _split(episodes.per_task, train)


def _split(per_task: tuple[int, ...], train: Mapping[str, Value]) -> Iterator[Finding]:
    """LeRobot holds out the last episodes of each task, rounded up (make_train_eval_datasets)."""
    share = train.get("dataset.eval_split")
    if not isinstance(share, float) or not share or not per_task:
        return
    if sum(count - math.ceil(count * share) for count in per_task) == 0:
        yield Finding(
            what=f"dataset.eval_split {share:g} holds out all {sum(per_task)} episodes: it is rounded up for each task",
            where="train.dataset.eval_split",
            cure="leave train.dataset.eval_split out, or record more episodes",
            reason=Reason.SPEC_REFUSED,
        )
