"""The trainer's command line and environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi0q.jobs import aftermath, command
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers import network, shelf
from pi0q.workers.datasets import local_root
from pi0q.workers.run import environment, fetches, process
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.order import Order

HOOK = Path(__file__).with_name("pi0q_trainer")


def trainer(
    order: Order,
    record: Record,
    spec: Spec,
    settings: Settings,
    directory: RunDirectory,
    resume: Saved | None,
    cache_env: Mapping[str, str],
) -> tuple[list[str], dict[str, str]]:
    """How the trainer is started, fresh or from a checkpoint: its argv and its whole environment."""
    built = _command(order, record, spec, settings, directory, resume)
    marks = {
        process.MARK: order.job_id,
        process.MARK_EPOCH: str(order.epoch),
        "PI0Q_EVENTS": str(directory.pipe),
        "PI0Q_PARENT": str(os.getpid()),
        "PI0Q_LEASE": str(directory.lease),
        "PI0Q_CARD": str(directory.card) if aftermath.push_to(spec) else "",
        "PI0Q_SAVE_EVERY_S": str(spec.checkpoints.every_seconds or ""),
        "PI0Q_SAVE_COST_S": str(record.save_seconds or ""),
    }
    base = network.environment(fetches.talks_to(spec), os.environ, settings)
    env = environment.build(base, settings, gpus=record.gpus, command={**built.env, **cache_env}, marks=marks)
    environment.make_directories(env)
    shelf.hold_derived(settings, compiles=bool(spec.train.get("policy.compile_model")))
    return [order.python, str(HOOK), *built.argv[1:]], env


def _command(
    order: Order, record: Record, spec: Spec, settings: Settings, directory: RunDirectory, resume: Saved | None
) -> command.Command:
    root = local_root(spec.train, settings)
    shared: dict[str, Any] = {
        "lerobot": order.lerobot,
        "output_dir": str(directory.output),
        "run_id": str(record.wandb_run_id),
        "dataset_root": str(root) if root else None,
    }
    if resume:
        return command.resumed(spec, checkpoint=resume.path, **shared)
    return command.fresh(spec, **shared)
