"""What the trainer of a job reads from the Hub, brought into this box's cache before it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.run import cache, fetches
from pi0q.workers.run.reach import Reach
from pi0q.workers.run.stop import Stop


@dataclass(frozen=True, kw_only=True)
class Provided:
    """A job that finds all it needs here."""

    #: The same job, reading from the cache.
    spec: Spec
    #: What its trainer's environment needs for that.
    env: Mapping[str, str]
    #: Repository -> commit, of this run and of those before.
    pins: Mapping[str, str]


def provide(spec: Spec, record: Record, settings: Settings, *, resuming: bool, say: Callable[[str], None]) -> Provided:
    """Fetches dataset, base and tokenizer at the commits of the first claim. Raises Stop.

    Whether WandB would take its run now is asked meanwhile.
    """
    wandb = Reach(spec, settings)
    # A resume fetches no base, and its pin must not be forgotten.
    hf_home, pins = settings.hf_home, dict(record.pins)
    if wanted := fetches.wanted(spec, resuming=resuming):
        try:
            pins |= cache.prepare(wanted, settings, pins=record.pins, say=say)
        except cache.Refused as refused:
            raise Stop(refused.reason, refused.detail, refused.asked_seconds) from None
        spec = fetches.at_home(spec, wanted, hf_home=hf_home, pins=pins)
    spec = wandb.decide(spec, say)
    return Provided(spec=spec, env=fetches.offline_env(spec, hf_home=hf_home), pins=pins)
