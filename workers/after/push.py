"""The chore `push`: the trained policy goes to the Hub as LeRobot's own push would have sent it, out of any training.

It goes from the last verified checkpoint, in one commit. What came to the Hub before a try was cut is not sent again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pi0q.jobs import aftermath
from pi0q.jobs.checkpoint import MANIFEST, Manifest
from pi0q.jobs.kinds import Value
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.workers import network
from pi0q.workers.aftercare import Desk, Did, Later, Never
from pi0q.workers.network import Route, Ways
from pi0q.workers.run import cache, child, errand
from pi0q.workers.run.chores import Chore
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.refusals import Refused

MODULE = "pi0q.workers.after.upload"
#: What LeRobot sends of a policy's directory.
SUFFIXES = (".safetensors", ".json", ".yaml", ".md")
#: What a person has to do before a try can succeed.
CURES = {
    Reason.NEEDS_ACCESS: "run `hf auth login` on {box} with a token that may write to {repo}, then `pi0q retry {job}`",
    Reason.NOT_ON_HUB: "see whether {owner} exists on the Hub and this box's token may write there",
    Reason.DISK_FULL: "free some space on {box}",
}


def chore(spec: Spec, *, epoch: int, box: str) -> Chore | None:
    """The push of a run that came to its end; None where its user wants none."""
    if (repo := aftermath.push_to(spec)) is None:
        return None
    return Chore(kind="push", epoch=epoch, box=box, order={"repo": repo}, result={"repo": repo})


def work(desk: Desk) -> Did:
    """Pushes it, over each way to the Hub until one serves. Raises Later or Never."""
    repo = str(desk.chore.order["repo"])
    folder, manifest = checkpoint(desk.directory, desk.record)
    spec = Spec.from_json(desk.record.spec)
    order = {
        "repo": repo,
        "private": spec.train.get("policy.private"),
        "folder": str(folder),
        "sha256": {name.partition("/")[2]: file.sha256 for name, file in manifest.files.items()},
        "texts": texts(folder, desk.directory, spec),
        # Its store for large files is another host: where that can't be reached, every other try does without.
        "xet": desk.chore.tries % 2 == 0,
    }
    if cache.offline():
        raise Later(f"HF_HUB_OFFLINE is set on {desk.chore.box}: unset it and restart its worker", slowly=True)
    desk.say("connecting to the Hub")
    turbo = network.read_turbo(desk.settings.network_turbo)
    ways = Ways("hub", network.ways(desk.settings.hf_endpoint, desk.settings, os.environ, turbo), desk.settings.home)
    refused = "the Hub could not be reached"
    asked = 0.0
    for route in ways.order():
        try:
            commit = _send(desk, route, order)
        except Refused as error:
            if error.reason is not Reason.NETWORK:
                raise _of_person(error, desk, repo) from None
            ways.forget(route)
            refused, asked = error.why, error.asked_seconds
        except child.Broken as error:
            ways.forget(route)
            refused = str(error).replace("download", "upload")
        else:
            ways.remember(route)
            return Did(detail=f"step {manifest.step}", result={"repo": repo, "step": manifest.step, **commit})
    raise Later(refused, asked=asked)


def checkpoint(directory: RunDirectory, record: Record) -> tuple[Path, Manifest]:
    """The policy's directory in the last verified checkpoint of a job, and the manifest. Raises Never."""
    saved = record.checkpoint
    place = directory.checkpoints / Path(saved.path).name if saved else directory.checkpoints
    try:
        manifest = Manifest.from_json(json.loads((place / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Never(
            f"the checkpoint of step {saved.step} is not on {record.box} any more"
            if saved
            else "the job has no verified checkpoint"
        ) from None
    return place / "pretrained_model", manifest


def texts(folder: Path, directory: RunDirectory, spec: Spec) -> dict[str, str]:
    """Files that are sent as the user's own run would have them, name -> content: the card, and configurations that
    name the Hub's repositories instead of places on this box."""
    found = {"README.md": card(directory, spec)}
    for name in ("config.json", "train_config.json"):
        if (folder / name).is_file():
            found[name] = as_asked(name, (folder / name).read_text(encoding="utf-8"), spec.train)
    return found


def as_asked(name: str, text: str, train: Mapping[str, Value]) -> str:
    """A configuration without what pi0q changed for the run: who pushes, and where dataset and base lie. Pure."""
    config: dict[str, Any] = json.loads(text)
    policy = config if name == "config.json" else config.get("policy")
    if isinstance(policy, dict):
        policy["push_to_hub"] = True
        if "pretrained_path" in policy:
            policy["pretrained_path"] = train.get("policy.pretrained_path") or train.get("policy.path")
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
    kind, dataset = str(train.get("policy.type") or "policy"), str(train.get("dataset.repo_id") or "")
    given = train.get("policy.tags")
    tags = sorted({"robotics", "lerobot", kind, *(map(str, given) if isinstance(given, list) else ())})
    head = {
        "datasets": dataset,
        "library_name": "lerobot",
        "license": train.get("policy.license") or "apache-2.0",
        "model_name": kind,
        "pipeline_tag": "robotics",
        "tags": tags,
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in head.items() if value]
    about = f"A `{kind}` policy trained with [LeRobot](https://github.com/huggingface/lerobot)"
    return "\n".join(["---", *lines, "---", "", f"# Model Card for {kind}", "", f"{about} on `{dataset}`.", ""])


def _send(desk: Desk, route: Route, order: Mapping[str, Any]) -> dict[str, str]:
    """One process over one way; where it lies then. Raises Refused, Broken, Later."""
    heard = errand.send(
        route, [], pins={}, hf_home=desk.settings.hf_home, stall_seconds=desk.settings.stall_seconds,
        module=MODULE, more={"push": dict(order)},
    )  # fmt: skip
    for line in _until_stopped(desk, heard):
        if "say" in line:
            desk.say(line["say"])
        elif "refused" in line:
            raise Refused.from_json(line["refused"])
        elif "bug" in line:
            raise RuntimeError(line["bug"])
        elif "pushed" in line:
            return {"url": line["pushed"], "commit": line["commit"]}
    raise child.Broken("the upload ended too early")


def _until_stopped(desk: Desk, heard: Iterator[dict[str, Any] | None]) -> Iterator[dict[str, Any]]:
    for line in heard:
        if desk.stopping.is_set():
            raise Later("the worker stopped")
        if line is not None:
            yield line


def _of_person(error: Refused, desk: Desk, repo: str) -> Exception:
    if error.reason not in CURES:
        return Never(error.why)
    names = {"box": desk.chore.box, "repo": repo, "owner": repo.partition("/")[0], "job": desk.job_id}
    return Later(f"{error.why}: {CURES[error.reason].format(**names)}", slowly=True)
