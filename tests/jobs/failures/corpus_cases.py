"""What goes wrong in the runs that make_corpus.py makes."""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.jobs.failures.make_corpus import (
    ACT,
    Case,
    Place,
    kill,
    kill_worker,
    limited,
    mount_small,
    stop_worker_and_ask,
)

if TYPE_CHECKING:
    from tests.standin_hub import StandInHub

HUB_INFO = {"codebase_version": "v3.0", "fps": 10, "features": {}, "total_episodes": 1, "total_frames": 1}


def spoil(place: Place, hub: StandInHub) -> None:
    """Datasets that are wrong in some way, and repositories of the stand-in Hub."""
    parquet = next(place.copy("torn_parquet").glob("data/**/*.parquet"))
    parquet.write_bytes(parquet.read_bytes()[:-200])
    next(place.copy("no_parquet").glob("data/**/*.parquet")).unlink()
    (place.copy("torn_info") / "meta" / "info.json").write_text('{"codebase_version": "v3.0", ')
    _with(place.copy("nan_actions"), float("nan"))
    _with(place.copy("null_actions"), None)
    for name, version in (("old_v20", "v2.0"), ("old_v21", "v2.1")):
        place.with_info(name, codebase_version=version)
    info = json.dumps(HUB_INFO).encode()
    hub.commit("dataset", "you/gated", {"meta/info.json": info}, refs=("main", "v3.0"), gated=True)
    hub.commit("dataset", "you/old", {"meta/info.json": info.replace(b"v3.0", b"v2.1")}, refs=("main", "v2.1"))
    hub.commit("dataset", "you/newer", {"meta/info.json": info.replace(b"v3.0", b"v9.9")}, refs=("main", "v9.9"))
    hub.commit("dataset", "you/untagged", {"meta/info.json": info})
    hub.commit("model", "you/gated_model", {"config.json": b"{}"}, gated=True)
    hub.commit("model", "you/torn_model", {"config.json": b'{"type": "act"}', "model.safetensors": b"torn" * 900})


def _with(dataset: Path, nothing: float | None) -> None:
    import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-untyped,unused-ignore]

    for file in dataset.glob("data/**/*.parquet"):
        table = pq.read_table(file)
        actions = [[nothing] * len(row) for row in table["action"].to_pylist()]
        column = pa.array(actions, type=table.schema.field("action").type)
        pq.write_table(table.set_column(table.schema.get_field_index("action"), "action", column), file)


def cases(place: Place, hub: StandInHub) -> dict[str, Case]:
    """Name -> case."""
    root = place.root / "datasets"

    def local(name: str) -> tuple[str, ...]:
        return (f"--dataset.root={root / name}",)

    def remote(repo: str) -> tuple[str, ...]:
        return (f"--dataset.repo_id={repo}",)

    none, offline = ("--dataset.root",), go_offline
    disk = place.root / "small"
    out = (f"--output_dir={disk / 'output'}",)
    loaders = ("--num_workers=2", "--steps=60", "--save_freq=60")
    long = ("--steps=2000", "--save_freq=2000")
    return {
        # the file
        "bad_flag": Case(
            reason="spec_refused", whole=True, done="a flag that it does not know", flags=("--polcy.type=act",)
        ),
        "bad_number": Case(reason="spec_refused", done="text where a number belongs", flags=("--steps=many",)),
        "bad_policy": Case(reason="spec_refused", done="an unknown policy", flags=("--policy.type=pi9",)),
        "bad_choice": Case(
            reason="spec_refused", done="chunk smaller than n_action_steps", flags=("--policy.n_action_steps=9",)
        ),
        "no_dataset_flag": Case(reason="spec_refused", done="no dataset named", without=("--dataset.repo_id",)),
        "no_policy": Case(reason="spec_refused", done="no policy named", without=tuple(f.split("=")[0] for f in ACT)),
        "batch_0": Case(reason="spec_refused", done="batch_size 0", flags=("--batch_size=0",)),
        "output_exists": Case(
            reason="spec_refused", done="an output_dir that exists", flags=("--output_dir=/tmp",)
        ),
        "resume_without_config": Case(reason="spec_refused", done="resume without a config", flags=("--resume=true",)),
        "push_without_repo": Case(
            reason="spec_refused", done="push_to_hub without a repo_id", flags=("--policy.push_to_hub=true",)
        ),
        "no_cameras": Case(
            reason="spec_refused",
            done="a policy that wants another input",
            flags=('--policy.input_features={"observation.state": {"type": "STATE", "shape": [6]}}',),
        ),
        "wandb_no_key": Case(
            reason="wandb_refused",
            done="WandB online without a key",
            flags=("--wandb.enable=true", "--wandb.mode=online"),
            env={"WANDB_MODE": "online", "WANDB_API_KEY": "", "HOME": str(place.root / "nobody"), "NETRC": "/dev/null"},
        ),
        "no_cuda": Case(reason="no_cuda", done="cuda where there is none", flags=("--policy.device=cuda",)),
        # the dataset
        "dataset_not_here": Case(
            reason="dataset_missing", done="a dataset root that is empty, offline", flags=local("nothing"),
            before=offline,
        ),
        "dataset_not_on_hub": Case(
            reason="not_on_hub", done="a repository that the (stand-in) Hub lacks", without=none,
            flags=remote("you/nothing"),
        ),
        "dataset_not_cached": Case(
            reason="not_cached", done="offline and not in the cache", without=none, flags=remote("you/none"),
            before=offline,
        ),
        "dataset_gated": Case(
            reason="needs_access", done="a gated dataset of the (stand-in) Hub, no token", without=none,
            flags=remote("you/gated"),
        ),
        "dataset_untagged": Case(
            reason="dataset_format", done="a Hub dataset without a version tag", without=none,
            flags=remote("you/untagged"),
        ),
        "dataset_old_on_hub": Case(
            reason="dataset_format", done="a Hub dataset of format v2.1", without=none, flags=remote("you/old")
        ),
        "dataset_v20": Case(reason="dataset_format", done="a dataset of format v2.0", flags=local("old_v20")),
        "dataset_v21": Case(reason="dataset_format", done="a dataset of format v2.1", flags=local("old_v21")),
        "dataset_newer": Case(
            reason="dataset_format", done="a Hub dataset newer than LeRobot", without=none, flags=remote("you/newer")
        ),
        "dataset_torn": Case(reason="dataset_damaged", done="a cut parquet file", flags=local("torn_parquet")),
        "dataset_no_parquet": Case(
            reason="dataset_missing", done="no parquet file, offline", flags=local("no_parquet"), before=offline
        ),
        "dataset_torn_info": Case(reason="dataset_damaged", done="half an info.json", flags=local("torn_info")),
        "dataset_episodes": Case(
            reason="dataset_missing", done="episodes that are not there, offline", flags=("--dataset.episodes=[0,77]",),
            before=offline,
        ),
        # the Hub and the network
        "hub_away": Case(
            reason="network", done="nobody listens at the Hub's address", without=none, flags=remote("you/away"),
            before=lambda: hub_is("http://127.0.0.1:9"),
        ),
        "hub_no_name": Case(
            reason="network", done="the Hub's name has no address", without=none, flags=remote("you/away"),
            before=lambda: hub_is("http://hub.invalid"),
        ),
        "weights_not_on_hub": Case(
            reason="not_on_hub", done="a base model that the Hub lacks",
            flags=("--policy.pretrained_path=you/no_model",),
        ),
        "weights_gated": Case(
            reason="needs_access", done="a gated base", flags=("--policy.pretrained_path=you/gated_model",)
        ),
        "weights_torn": Case(
            reason="weights_damaged", done="weights that are no safetensors",
            flags=("--policy.pretrained_path=you/torn_model",),
        ),
        # disk
        "disk_full": Case(
            reason="disk_full", done="a data disk of 3 MiB", flags=out, before=mount_small(disk, "size=3m")
        ),
        "disk_full_2": Case(
            reason="disk_full", done="a data disk that fills up at the second save", flags=out,
            before=mount_small(disk, "size=160m"),
        ),
        "inodes_full": Case(
            reason="disk_full", done="a data disk of 12 inodes", flags=out, before=mount_small(disk, "nr_inodes=12"),
        ),
        "file_too_big": Case(
            reason="disk_full", done="a limit on the size of a file", before=limited(resource.RLIMIT_FSIZE, 1 << 20)
        ),
        "read_only": Case(
            reason="disk_broken", done="a data disk that is mounted read-only", flags=out,
            before=mount_small(disk, "ro"),
        ),
        # memory
        "memory_limit": Case(
            reason="memory_limit", whole=True, done="a memory group of 150 MiB", flags=("--batch_size=64",),
            memory_mib=150,
        ),
        "worker_memory_limit": Case(
            reason="memory_limit", done="a data loader's worker killed as the kernel does for memory", flags=loaders,
            at=(3, kill_worker(signal.SIGKILL)),
        ),
        "address_space": Case(
            reason="memory_limit", done="a limit on its address space", flags=("--batch_size=4096",),
            before=lambda: limited(resource.RLIMIT_AS, _vm_bytes() + (300 << 20))(),
        ),
        "shm_full": Case(
            reason="shm_full", done="/dev/shm of 1 MiB", flags=("--num_workers=2", "--batch_size=64"),
            before=mount_small(Path("/dev/shm"), "size=1m"),
        ),
        "too_many_files": Case(
            reason="trainer_failed", done="20 open files", flags=loaders,
            before=limited(resource.RLIMIT_NOFILE, 20),
        ),
        # signals
        "killed": Case(reason="trainer_killed", done="SIGKILL", flags=long, at=(4, kill(signal.SIGKILL))),
        "segfault": Case(reason="trainer_crashed", done="SIGSEGV", flags=long, at=(4, kill(signal.SIGSEGV))),
        "illegal": Case(reason="trainer_crashed", done="SIGILL", flags=long, at=(4, kill(signal.SIGILL))),
        "abort": Case(reason="trainer_crashed", done="SIGABRT", flags=long, at=(4, kill(signal.SIGABRT))),
        "bus": Case(reason="shm_full", done="SIGBUS to a data loader's worker", flags=loaders,
                    at=(3, kill_worker(signal.SIGBUS))),
        "worker_segfault": Case(reason="trainer_crashed", done="SIGSEGV to a data loader's worker", flags=loaders,
                                at=(3, kill_worker(signal.SIGSEGV))),
        "interrupted": Case(reason="trainer_killed", done="SIGINT", flags=long, at=(4, kill(signal.SIGINT))),
        "terminated": Case(reason="stopped_by_box", done="SIGTERM", flags=long, at=(4, kill(signal.SIGTERM))),
        "hang": Case(
            reason="hung", heard="hung", done="data loaders that stand still; its stacks asked for", flags=loaders,
            at=(3, stop_worker_and_ask),
        ),
        # numbers
        "nan": Case(reason="non_finite_loss", done="NaN among the actions", flags=local("nan_actions")),
        "null": Case(reason="trainer_failed", done="null among the actions", flags=local("null_actions")),
        "diverged": Case(
            reason="non_finite_loss", done="a learning rate of 1e30", flags=("--policy.optimizer_lr=1e30",)
        ),
        "diverged_at_save": Case(
            reason="non_finite_loss", done="weights that overflow in a step whose loss is finite, and a save behind it",
            flags=("--policy.optimizer_lr=1e19", "--policy.optimizer_weight_decay=3.3e19", "--save_freq=1"),
        ),
        # pi0
        "pi0_no_tokenizer": Case(
            reason="not_cached", done="pi0 without the tokenizer, offline", only="0.6", before=offline,
            flags=PI0, without=tuple(f.split("=")[0] for f in ACT), env={"PI0Q_REHEARSAL": "1"},
        ),
        "pi0_old_transformers": Case(
            reason="trainer_broken", done="pi0 of LeRobot 0.4.4 without its patched transformers", only="0.4",
            flags=PI0, without=tuple(f.split("=")[0] for f in ACT),
        ),
    }  # fmt: skip


PI0 = ("--policy.type=pi0", "--policy.push_to_hub=false", "--policy.device=cpu")


def _vm_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def go_offline() -> None:
    """As with HF_HUB_OFFLINE=1, in all places that read it when they were imported."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(("huggingface_hub", "datasets", "transformers")):
            for name in ("HF_HUB_OFFLINE", "_is_offline_mode"):
                if isinstance(getattr(module, name, None), bool):
                    setattr(module, name, True)


def hub_is(url: str) -> None:
    """Another address of the Hub, in all places that read it when they were imported."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(("huggingface_hub", "datasets", "lerobot")):
            for name in ("ENDPOINT", "HF_ENDPOINT", "HUGGINGFACE_CO_URL_HOME"):
                if isinstance(getattr(module, name, None), str):
                    setattr(module, name, url)
            template = getattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", None)
            if isinstance(template, str):
                module.HUGGINGFACE_CO_URL_TEMPLATE = url + "/{repo_id}/resolve/{revision}/{filename}"  # type: ignore[attr-defined]
