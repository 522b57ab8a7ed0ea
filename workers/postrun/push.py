"""The post-run task `push`: send the trained policy to the Hub as LeRobot's own push would have sent it.

It goes from the last verified checkpoint, or the best one (`checkpoints.best`), in one commit. What came to the Hub
before a try was cut is not sent again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi0q.jobs import postrun, start_point
from pi0q.jobs.checkpoint import MANIFEST, Manifest
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.schema import trained_model
from pi0q.jobs.schema.value_types import Value
from pi0q.jobs.spec import Spec
from pi0q.workers.checkpoints import local_store
from pi0q.workers.host import helper_process
from pi0q.workers.host.helper_process import ChildFailed, Helper
from pi0q.workers.hub import session
from pi0q.workers.hub.errors import HubError
from pi0q.workers.network import routes
from pi0q.workers.network.routes import Route, Ways
from pi0q.workers.postrun.scheduler import GiveUp, RetryLater, TaskContext, TaskDone
from pi0q.workers.runs.postrun_tasks import PostrunTask
from pi0q.workers.runs.run_directory import RunDirectory

HELPER = Helper(argv=helper_process.module("pi0q.workers.postrun.push_main"), name="the upload", log="the worker's log")
#: What LeRobot sends of a policy's directory.
SUFFIXES = (".safetensors", ".json", ".yaml", ".md")
#: What a person has to do before a try can succeed.
CURES = {
    Reason.NEEDS_ACCESS: "run `hf auth login` on {box} with a token that may write to {repo}, then `pi0q retry {job}`",
    Reason.NOT_ON_HUB: "see whether {owner} exists on the Hub and this box's token may write there",
    Reason.DISK_FULL: "free some space on {box}",
}


def task_for(spec: Spec, *, epoch: int, box: str) -> PostrunTask | None:
    """The push of a run that came to its end; None where its user wants none."""
    if (repo := postrun.push_to(spec)) is None:
        return None
    return PostrunTask(kind="push", epoch=epoch, box=box, order={"repo": repo}, result={"repo": repo})


def work(context: TaskContext) -> TaskDone:
    """Pushes it, over each way to the Hub until one serves. Raises RetryLater or GiveUp."""
    repo = str(context.task.order["repo"])
    folder, manifest = checkpoint(context.directory, context.record)
    spec = Spec.from_json(context.record.spec)
    order = {
        "repo": repo,
        "private": trained_model.setting(spec.train, "private"),
        "folder": str(folder),
        "sha256": {name.partition("/")[2]: file.sha256 for name, file in manifest.files.items()},
        "texts": texts(folder, context.directory, spec),
        # Its store for large files is another host: where that can't be reached, every other try does without.
        "xet": context.task.tries % 2 == 0,
    }
    if routes.offline():
        raise RetryLater(f"HF_HUB_OFFLINE is set on {context.task.box}: unset it and restart its worker", slowly=True)
    context.say("connecting to the Hub")
    turbo = routes.read_turbo(context.settings.network_turbo)
    ways = Ways(
        "hub", routes.ways(context.settings.hf_endpoint, context.settings, os.environ, turbo), context.settings.home
    )
    refused = "the Hub could not be reached"
    asked = 0.0
    for route in ways.order():
        try:
            commit = _send(context, route, order)
        except HubError as error:
            if error.reason is not Reason.NETWORK:
                raise _of_person(error, context, repo) from None
            ways.forget(route)
            refused, asked = error.why, error.asked_seconds
        except ChildFailed as error:
            ways.forget(route)
            refused = str(error)
        else:
            ways.remember(route)
            return TaskDone(detail=f"step {manifest.step}", result={"repo": repo, "step": manifest.step, **commit})
    raise RetryLater(refused, asked=asked)


def checkpoint(directory: RunDirectory, record: Record) -> tuple[Path, Manifest]:
    """The policy's directory in the checkpoint of a job that is pushed, and the manifest. Raises GiveUp.

    That is its best one where its file keeps that, else the last verified one.
    """
    saved, best = record.checkpoint, record.best
    place = directory.checkpoints / Path(saved.path).name if saved else directory.checkpoints
    if best:
        place = local_store.step_directories(directory.checkpoints).get(best.step, directory.checkpoints / "none")
    try:
        manifest = Manifest.from_json(json.loads((place / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        if not saved and not best:
            raise GiveUp("the job has no verified checkpoint") from None
        which = f"best checkpoint, of step {best.step}," if best else f"checkpoint of step {saved.step if saved else 0}"
        raise GiveUp(f"the {which} is not on {record.box} any more") from None
    return place / "pretrained_model", manifest


def texts(folder: Path, directory: RunDirectory, spec: Spec) -> dict[str, str]:
    """Files that are sent as the user's own run would have them, name -> content: the card, and configurations that
    name the Hub's repositories instead of places on this box."""
    found = {"README.md": card(directory, spec)}
    for name in ("config.json", "train_config.json", "adapter_config.json"):
        if (folder / name).is_file():
            found[name] = as_asked(name, (folder / name).read_text(encoding="utf-8"), spec.train)
    return found


def as_asked(name: str, text: str, train: Mapping[str, Value]) -> str:
    """A configuration without what pi0q changed for the run: who pushes, and where dataset and base lie. Pure."""
    config: dict[str, Any] = json.loads(text)
    if name == "adapter_config.json":
        base = trained_model.setting(train, "pretrained_path") or train.get("policy.path")
        if base and not start_point.parse(base) and not train.get("policy.use_peft"):
            config["base_model_name_or_path"] = base
        return json.dumps(config, indent=4)
    policy = config if name == "config.json" else config.get(trained_model.section(train))
    if isinstance(policy, dict):
        policy["push_to_hub"] = True
        if "pretrained_path" in policy:
            base = trained_model.setting(train, "pretrained_path") or train.get("policy.path")
            # A job of this queue means nothing to whoever reads it there.
            policy["pretrained_path"] = None if start_point.parse(base) else base
    dataset = config.get("dataset")
    if isinstance(dataset, dict) and name == "train_config.json":
        for key in ("root", "revision"):
            if key in dataset:
                dataset[key] = train.get(f"dataset.{key}")
    return json.dumps(config, indent=4)


def card(directory: RunDirectory, spec: Spec) -> str:
    """LeRobot's model card, as the trainer wrote it at its end; a plain one where it did not."""
    try:
        return directory.card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return plain_card(spec.train)


def plain_card(train: Mapping[str, Value]) -> str:
    """The head of LeRobot's card, which the Hub reads, and a line. Pure."""
    kind, dataset = trained_model.kind(train) or "policy", str(train.get("dataset.repo_id") or "")
    given = trained_model.setting(train, "tags")
    tags = sorted({"robotics", "lerobot", kind, *(map(str, given) if isinstance(given, list) else ())})
    head = {
        "datasets": dataset,
        "library_name": "lerobot",
        "license": trained_model.setting(train, "license") or "apache-2.0",
        "model_name": kind,
        "pipeline_tag": "robotics",
        "tags": tags,
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in head.items() if value]
    about = f"A `{kind}` policy trained with [LeRobot](https://github.com/huggingface/lerobot)"
    return "\n".join(["---", *lines, "---", "", f"# Model Card for {kind}", "", f"{about} on `{dataset}`.", ""])


def _send(context: TaskContext, route: Route, order: Mapping[str, Any]) -> dict[str, str]:
    """Push over one route; return address and commit. Raises HubError, ChildFailed, RetryLater."""
    settings = context.settings
    running = session.run_over(
        route, HELPER, {"push": dict(order)},
        hf_home=settings.hf_home, env=os.environ, stall_seconds=settings.stall_seconds,
    )  # fmt: skip
    for line in running:
        if context.stopping.is_set():
            raise RetryLater("the worker stopped")
        if line is None:
            continue
        if "say" in line:
            context.say(line["say"])
        elif "refused" in line:
            raise HubError.from_json(line["refused"])
        elif "bug" in line:
            raise RuntimeError(line["bug"])
        elif "pushed" in line:
            return {"url": line["pushed"], "commit": line["commit"]}
    raise ChildFailed("the upload ended too early")


def _of_person(error: HubError, context: TaskContext, repo: str) -> Exception:
    if error.reason not in CURES:
        return GiveUp(error.why)
    names = {"box": context.task.box, "repo": repo, "owner": repo.partition("/")[0], "job": context.job_id}
    return RetryLater(f"{error.why}: {CURES[error.reason].format(**names)}", slowly=True)
