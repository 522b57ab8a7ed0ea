"""Each rule about datasets, held against the real LeRobot: it fails on the fault that pi0q finds, and trains without.

A dataset of noise is written by LeRobot itself, one fault is put into a copy, pi0q looks into it and says what is
wrong; then the trainer runs two steps on the same copy. Where LeRobot trains on the fault in silence, that is the test.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from pi0q.jobs.dataset_checks import checks, policy_inputs
from pi0q.jobs.dataset_checks.finding import Finding, Source
from pi0q.ops.local import standins_main
from pi0q.workers.trainer import dataset_reader
from tests.workers.trainer import fork_server
from tests.workers.trainer.fork_server import ForkServer

THERE = importlib.util.find_spec("lerobot") is not None
LEROBOT = importlib.metadata.version("lerobot") if THERE else ""
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not LEROBOT.startswith("0.6"), reason="the rules are those of LeRobot 0.6"),
]

TOP, WRIST = "observation.images.top", "observation.images.wrist"
MAKE = """
import sys
import numpy as np
from pathlib import Path
from lerobot.datasets.lerobot_dataset import LeRobotDataset
place, joints, rng = Path(sys.argv[1]), [f"joint_{n}" for n in range(6)], np.random.default_rng(0)
for name, videos, cameras in (("images", False, ["top"]), ("videos", True, ["top"]), ("two", False, ["top", "wrist"])):
    kind = {"dtype": "video" if videos else "image", "shape": (64, 64, 3), "names": ["height", "width", "channel"]}
    vector = {"dtype": "float32", "shape": (6,), "names": joints}
    features = {f"observation.images.{camera}": kind for camera in cameras}
    features |= {"observation.state": vector, "action": vector}
    made = LeRobotDataset.create("local/x", fps=10, features=features, root=place / name, use_videos=videos)
    for episode in range(3):
        for _ in range(20):
            frame = {f"observation.images.{one}": rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for one in cameras}
            frame |= {part: rng.normal(size=6).astype(np.float32) for part in ("observation.state", "action")}
            made.add_frame({**frame, "task": "grab the box" if episode < 2 else "put it down"})
        made.save_episode()
    made.finalize()
"""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets without a fault: one with a camera's images, one with its video, one with two cameras."""
    place = tmp_path_factory.mktemp("datasets")
    made = subprocess.run([sys.executable, "-c", MAKE, str(place)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    return place


# -- faults


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(file.read_text())
    file.write_text(json.dumps(change(value) or value))


def info(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda root: edit(root / "meta/info.json", change)


def stats(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda root: edit(root / "meta/stats.json", change)


def table(path: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change a table as pandas has it."""

    def changed(root: Path) -> None:
        import pandas

        change(pandas.read_parquet(root / path)).to_parquet(root / path)

    return changed


def column(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Path], None]:
    """Change a column of the data, leaving its type alone."""

    def changed(root: Path) -> None:
        import pyarrow
        import pyarrow.parquet as parquet

        file = root / "data/chunk-000/file-000.parquet"
        read = parquet.read_table(file)
        at = read.column_names.index(name)
        values = pyarrow.array(change(read.column(name).to_pylist()), type=read.schema.field(name).type)
        parquet.write_table(read.set_column(at, read.schema.field(name), values), file)

    return changed


def pointer(path: str) -> Callable[[Path], None]:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
    return lambda root: ((root / path).write_text(text), None)[1]


def gone(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def cut(path: str) -> Callable[[Path], None]:
    return lambda root: ((root / path).write_bytes((root / path).read_bytes()[:-100]), None)[1]


def version_by_hand(root: Path) -> None:
    shutil.rmtree(root / "meta/episodes")
    (root / "meta/tasks.parquet").unlink()
    (root / "meta/episodes.jsonl").write_text('{"episode_index": 0, "tasks": ["x"], "length": 20}\n')
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "x"}\n')


def other_size(cells: list[Any]) -> list[Any]:
    import io

    from PIL import Image

    small = io.BytesIO()
    Image.new("RGB", (48, 32)).save(small, "PNG")
    return [{**cell, "bytes": small.getvalue()} if n >= 20 else cell for n, cell in enumerate(cells)]


def another_column(root: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    read = parquet.read_table(root / DATA)
    parquet.write_table(read.append_column("extra", pyarrow.array([1.0] * len(read))), root / DATA)


def no_camera(root: Path) -> None:
    import pyarrow.parquet as parquet

    parquet.write_table(parquet.read_table(root / DATA).drop_columns([TOP]), root / DATA)
    edit(root / "meta/info.json", lambda told: {**told, "features": without(TOP)(told["features"])})


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda value: {key: one for key, one in value.items() if key != name}


def one_statistic(feature: str, name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda stats: {**stats, feature: {**stats[feature], name: value}}


def no_quantiles(stats: dict[str, Any]) -> Any:
    return {key: {n: v for n, v in one.items() if not n.startswith("q")} for key, one in stats.items()}


def of_feature(name: str, **change: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda info: info["features"][name].update(change)


QUANTILES = {"policy.normalization_mapping": "{ACTION: QUANTILES, STATE: QUANTILES, VISUAL: MEAN_STD}"}
IDENTITY = {"policy.normalization_mapping": "{ACTION: IDENTITY, STATE: IDENTITY, VISUAL: IDENTITY}"}
TASKS, DATA, VIDEO = "meta/tasks.parquet", "data/chunk-000/file-000.parquet", f"videos/{TOP}/chunk-000/file-000.mp4"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault: what is done to a dataset, what LeRobot says of it, what pi0q says."""

    of: str = "images"
    done: Callable[[Path], None]
    #: What the trainer's log ends with; "" where LeRobot trains on it in silence.
    lerobot: str
    #: Words of the finding and its cure.
    words: tuple[str, ...]
    flags: dict[str, str] = field(default_factory=dict)
    #: The trainer's exit code; 76: the loss was no number (pi0q's hook).
    code: int = 1


def shifted(seconds: float) -> Callable[[list[float]], list[float]]:
    return lambda times: [time + seconds for time in times]


FAULTS: dict[str, Case] = {
    "no quantiles": Case(
        done=stats(no_quantiles), flags=QUANTILES, lerobot="QUANTILES normalization mode requires q01 and q99",
        words=("q01 and q99", "lerobot.scripts.augment_dataset_quantile_stats --repo-id=local/x", "MEAN_STD"),
    ),
    "no statistics of a camera": Case(
        done=stats(without(TOP)), lerobot=f"KeyError: '{TOP}'", words=(TOP, "statistics lack the camera"),
    ),
    "no statistics": Case(
        done=gone("meta/stats.json"), lerobot="'NoneType' object is not subscriptable",
        words=("has no statistics", "meta/stats.json"),
    ),
    "no statistics of the state": Case(
        done=stats(without("observation.state")), lerobot="", words=("lack observation.state", "without a word"),
    ),
    "no mean": Case(
        done=stats(lambda s: {**s, "action": {k: v for k, v in s["action"].items() if k != "mean"}}),
        lerobot="MEAN_STD normalization mode requires mean and std", words=("action", "lack mean"),
    ),
    "NaN in the statistics": Case(
        done=stats(one_statistic("action", "mean", [float("nan")] * 6)), lerobot="Start offline training", code=76,
        words=("mean of action", "NaN"),
    ),
    "statistics of another width": Case(
        done=stats(one_statistic("observation.state", "std", [1.0] * 7)), lerobot="must match the size",
        words=("observation.state has 6 values", "std has 7"),
    ),
    "task_index beyond the table": Case(
        done=column("task_index", lambda rows: [5 for _ in rows]), lerobot="single positional indexer is out-of-bounds",
        words=("task_index 5", "2 tasks"),
    ),
    "no tasks counted": Case(
        done=info(lambda i: i.update(total_tasks=0)), lerobot="'NoneType' object has no attribute 'iloc'",
        words=("total_tasks",),
    ),
    "pointer of data": Case(done=pointer(DATA), lerobot="Parquet magic bytes", words=(DATA, "git lfs pull")),
    "pointer of tasks": Case(done=pointer(TASKS), lerobot="Parquet magic bytes", words=(TASKS, "git lfs pull")),
    "pointer of statistics": Case(
        done=pointer("meta/stats.json"), lerobot="JSONDecodeError", words=("meta/stats.json", "git lfs pull")
    ),
    "pointer of a video": Case(
        of="videos", done=pointer(VIDEO), lerobot="Error", words=(VIDEO, "git lfs pull"),
    ),
    "table cut off": Case(done=cut(DATA), lerobot="Parquet magic bytes", words=(DATA, "can't be read")),
    "version edited by hand": Case(
        done=version_by_hand, lerobot="OfflineModeIsEnabled", words=("v2.1", "convert_dataset_v21_to_v30"),
    ),
    "images of two sizes": Case(
        done=column(TOP, other_size), lerobot="stack expects each tensor to be equal size",
        words=("64 x 64", "48 x 32", TOP, "frame "),
    ),
    "times off by less than a frame": Case(
        of="videos", done=column("timestamp", shifted(0.03)), lerobot="violate the tolerance",
        words=("0.03 s off", "`train.tolerance_s: 0.07`"),
    ),
    "times beyond the video": Case(
        of="videos", done=column("timestamp", shifted(9.0)), lerobot="Error",
        words=("episode ", "frame ", VIDEO, "away"),
    ),
    "axes without names": Case(
        done=info(of_feature(TOP, names=None)), lerobot="'NoneType' object is not subscriptable",
        words=("have no names", '["height", "width", "channel"]'),
    ),
    "images of two dimensions": Case(
        done=info(of_feature(TOP, shape=[64, 64])), lerobot="Number of dimensions", words=("[64, 64]", "three numbers"),
    ),
    "feature without a column": Case(
        done=info(lambda i: i["features"].update(effort={"dtype": "float32", "shape": [6], "names": None})),
        lerobot="Error", words=("effort", "the data do not have"),
    ),
    "column without a feature": Case(
        done=another_column, lerobot="DatasetGenerationError", words=("columns", "extra", "meta/info.json"),
    ),
    "no table of tasks": Case(done=gone(TASKS), lerobot="OfflineModeIsEnabled", words=(TASKS, "missing")),
    "no video": Case(of="videos", done=gone(VIDEO), lerobot="OfflineModeIsEnabled", words=(VIDEO, "missing")),
    "episode without frames": Case(
        done=info(lambda i: i.update(total_episodes=4)), lerobot="OfflineModeIsEnabled", words=("episode 3",),
    ),
    "more frames than rows": Case(
        done=table(EPISODES, lambda t: t.assign(dataset_to_index=t.dataset_to_index + 500)), lerobot="out of bounds",
        words=("560 frames", "have 60"),
    ),
    "all episodes held out": Case(
        of="images", done=lambda root: None, flags={"dataset.eval_split": "0.9"}, lerobot="leaves 0 training episodes",
        words=("holds out all 3 episodes",),
    ),
    "two cameras of vqbet": Case(
        of="two", done=lambda root: None, flags={"policy.type": "vqbet"}, lerobot="only one image",
        words=("exactly one camera", "has 2"),
    ),
    "two cameras of tdmpc": Case(
        of="two", done=lambda root: None, flags={"policy.type": "tdmpc"}, lerobot="at most one image",
        words=("one camera at the most", "has 2"),
    ),
    "no camera of act": Case(
        done=no_camera, lerobot="Error", words=("at least one camera", "has 0"),
    ),
    "no action": Case(
        done=info(lambda i: i["features"].update(move=i["features"].pop("action"))), lerobot="Error",
        words=("no feature `action`",),
    ),
}  # fmt: skip

#: What looks like a fault and is none: LeRobot trains on it, and pi0q finds nothing.
GOOD: dict[str, Case] = {
    "images": Case(done=lambda root: None, lerobot="", words=()),
    "video": Case(of="videos", done=lambda root: None, lerobot="", words=()),
    "two cameras": Case(of="two", done=lambda root: None, lerobot="", words=()),
    "no quantiles where none are read": Case(done=stats(no_quantiles), lerobot="", words=()),
    "no statistics where nothing is normalised": Case(
        done=stats(without("observation.state")), flags=IDENTITY, lerobot="", words=()
    ),
    "no statistics of a camera that keeps its own": Case(
        done=stats(without(TOP)), flags={"dataset.use_imagenet_stats": "false"}, lerobot="", words=()
    ),
    "NaN in statistics that nobody reads": Case(
        done=stats(one_statistic("action", "q50", [float("nan")] * 6)), lerobot="", words=()
    ),
    "texts of tasks as a column, for a policy without language": Case(
        done=table(TASKS, lambda t: t.reset_index()), lerobot="", words=()
    ),
    "times within a tolerance that was asked for": Case(
        of="videos", done=column("timestamp", shifted(0.03)), flags={"tolerance_s": "0.04"}, lerobot="", words=()
    ),
    "damage in an episode that is left out": Case(
        of="videos", done=column("timestamp", lambda rows: [*rows[:20], *(t + 9 for t in rows[20:])]),
        flags={"dataset.episodes": "[0]"}, lerobot="", words=()
    ),
    "images of two sizes, one by one": Case(
        done=column(TOP, other_size), flags={"batch_size": "1", "dataset.episodes": "[0]"}, lerobot="", words=()
    ),
}  # fmt: skip


def look(root: Path, flags: dict[str, str], *, base: Path | None = None) -> tuple[Finding, ...]:
    """What pi0q finds, as a box does it."""
    train = {name: yaml.safe_load(value) for name, value in flags.items()}
    contents = dataset_reader.read(sys.executable, root, train)
    assert contents is not None
    config = (base / "config.json").read_bytes() if base else None
    inputs = policy_inputs.of_job(train, base=config, lerobot=LEROBOT)
    return checks.findings(contents, inputs, train, Source(repo_id="local/x", root=str(root)))


def train(home: ForkServer, name: str, root: Path, flags: dict[str, str]) -> tuple[int, str]:
    """What LeRobot makes of it: the trainer's exit code and its log."""
    small = dict(flag.removeprefix("--").split("=", 1) for flag in fork_server.ACT)
    if flags.get("policy.type", "act") != "act" or "policy.path" in flags:
        small = {}
    given = {
        "dataset.repo_id": "local/x", "dataset.root": str(root), "policy.device": "cpu", "policy.push_to_hub": "false",
        "batch_size": "8", "env_eval_freq": "0", "steps": "2", "num_workers": "0", "save_checkpoint": "false",
        "log_freq": "1", "output_dir": str(root.parent / f"{name}-output"), **small, **flags,
    }  # fmt: skip
    life = home.live(name, [f"--{key}={value}" for key, value in given.items()])
    return life.code, life.log.read_text(errors="replace")


def copy(originals: Path, place: Path, case: Case) -> Path:
    root = place / "dataset"
    shutil.copytree(originals / case.of, root)
    case.done(root)
    return root


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_ends_lerobot_is_found_before(
    name: str, home: ForkServer, originals: Path, tmp_path: Path
) -> None:
    case = FAULTS[name]
    root = copy(originals, tmp_path, case)
    flags = {"policy.type": "act", **case.flags}
    found = look(root, flags)
    said = checks.sentence(found)
    assert all(word in said for word in case.words), said
    code, log = train(home, f"fault-{list(FAULTS).index(name)}", root, flags)
    if case.lerobot:
        assert code == case.code, log[-3000:]
        assert case.lerobot in log[-6000:], log[-3000:]
    else:
        assert code == 0, log[-3000:]


@pytest.mark.parametrize("name", GOOD)
def test_what_lerobot_trains_on_is_not_refused(name: str, home: ForkServer, originals: Path, tmp_path: Path) -> None:
    case = GOOD[name]
    root = copy(originals, tmp_path, case)
    flags = {"policy.type": "act", **case.flags}
    assert look(root, flags) == ()
    code, log = train(home, f"good-{list(GOOD).index(name)}", root, flags)
    assert code == 0, log[-3000:]


def test_cameras_that_the_policy_does_not_know_end_lerobot(home: ForkServer, originals: Path, tmp_path: Path) -> None:
    """`policy.path` of a policy that was trained on other names; with rename_map LeRobot trains."""
    first = home.place / "camera-base"
    flags = {"policy.type": "act", "save_checkpoint": "true", "output_dir": str(first), "steps": "1", "save_freq": "1"}
    assert train(home, "camera-base", originals / "images", flags)[0] == 0
    base = first / "checkpoints/last/pretrained_model"
    root = tmp_path / "dataset"
    shutil.copytree(originals / "images", root)
    renamed = "observation.images.front"
    edit(root / "meta/stats.json", lambda told: {renamed if key == TOP else key: one for key, one in told.items()})
    edit(
        root / "meta/info.json",
        lambda told: {**told, "features": {renamed if k == TOP else k: one for k, one in told["features"].items()}},
    )
    rename_column(root / DATA, TOP, renamed)

    other = {"policy.path": str(base)}
    said = checks.sentence(look(root, other, base=base))
    assert f"the dataset has {renamed}; the policy takes {TOP}" in said
    code, log = train(home, "camera-other", root, other)
    assert (code, "Feature mismatch" in log[-6000:]) == (1, True)

    mapped = {**other, "rename_map": json.dumps({renamed: TOP})}
    assert look(root, mapped, base=base) == ()
    assert train(home, "camera-mapped", root, mapped)[0] == 0

    useless = {**other, "rename_map": json.dumps({"observation.images.side": TOP})}
    assert "observation.images.side, which the dataset does not have" in checks.sentence(look(root, useless, base=base))
    assert train(home, "camera-useless", root, useless)[0] == 1


def rename_column(file: Path, old: str, new: str) -> None:
    import pyarrow.parquet as parquet

    read = parquet.read_table(file)
    parquet.write_table(read.rename_columns([new if name == old else name for name in read.column_names]), file)


def test_texts_of_tasks_as_a_column_end_a_policy_that_reads_them(
    home: ForkServer, originals: Path, tmp_path: Path
) -> None:
    standins_main.make_tokenizer(home.place / "hf")
    small = dict(flag.removeprefix("--").split("=", 1) for flag in fork_server.PI0)
    root = tmp_path / "dataset"
    shutil.copytree(originals / "images", root)
    table(TASKS, lambda tasks: tasks.reset_index())(root)
    assert "Task cannot be None" in checks.sentence(look(root, {"policy.type": "pi0"}))
    life = home.live("tasks", pi0_flags(root, small), PI0Q_REHEARSAL="1")
    assert (life.code, "Task cannot be None" in life.log.read_text()) == (1, True)


def pi0_flags(root: Path, small: dict[str, str]) -> list[str]:
    given = {
        **small, "dataset.repo_id": "local/x", "dataset.root": str(root), "policy.device": "cpu", "batch_size": "2",
        "policy.push_to_hub": "false", "env_eval_freq": "0", "steps": "1", "num_workers": "0",
        "save_checkpoint": "false", "output_dir": str(root.parent / "out"),
    }  # fmt: skip
    return [f"--{key}={value}" for key, value in given.items()]


def test_the_script_that_pi0q_names_computes_what_is_missing(originals: Path, tmp_path: Path) -> None:
    """The cure of missing statistics: it ends at its push to the Hub, when the file is written."""
    root = tmp_path / "dataset"
    shutil.copytree(originals / "images", root)
    stats(without(TOP))(root)
    (finding,) = look(root, {"policy.type": "act"})
    command = finding.cure.partition("`HF_HUB_OFFLINE=1 python ")[2].partition("`")[0].split()
    assert command[:2] == ["-m", "lerobot.scripts.augment_dataset_quantile_stats"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    subprocess.run([sys.executable, *command], env=env, capture_output=True, timeout=300, check=False)
    assert look(root, {"policy.type": "act"}) == ()
