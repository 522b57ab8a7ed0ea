"""Heartbeat: report this box to the queue's server; notice when that server lost data."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pi0q.jobs.errors import UsageError
from pi0q.jobs.record import Record
from pi0q.queue import refusals
from pi0q.queue.connection import eviction
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.store_types import CopyRuns, HeartbeatReply, ServerMemory
from pi0q.workers.agent.claim_loop import ClaimLoop
from pi0q.workers.agent.context import BoxContext
from pi0q.workers.agent.run_watcher import RunWatcher
from pi0q.workers.claims import warm_boxes
from pi0q.workers.claims.fit import used_slots
from pi0q.workers.host import card_gauges, files
from pi0q.workers.host.identity import Identity
from pi0q.workers.host.probe import Host
from pi0q.workers.hub import cached
from pi0q.workers.staging.state import StagingState
from pi0q.workers.trainer.interpreter import NoTrainer

logger = logging.getLogger(__name__)


class NameTaken(UsageError):
    """Another machine that is up has this box's name."""


class CopyFound(NameTaken):
    """This machine is a copy of a box that is up: same disk, same id, same name."""


class Registration:
    """The box's entry on the server; notices another server, or one with older data than this box has seen."""

    def __init__(self, settings: Settings, store: Store, identity: Identity) -> None:
        self.store, self.identity, self.timing = store, identity, settings.timing
        self.file: Path = settings.home / "server.json"
        #: The server's answer to the last heartbeat; None before the first.
        self.reply: HeartbeatReply | None = None
        #: The server may know less than this box's ledgers, until `caught_up`.
        self.behind = True
        self._server, self._memory = _read(self.file)
        #: What the server has of this box's fields.
        self._told: dict[str, Any] = {}

    @property
    def drain(self) -> str:
        """What a user wants of this box: "" nothing, `drain` no new jobs, `now` hand back those it has too."""
        return self.reply.drain if self.reply else ""

    @property
    def claim_holdoff_seconds(self) -> float:
        """How long claims still wait for other boxes, as of the last heartbeat."""
        return self.reply.claim_holdoff_seconds if self.reply else 0.0

    def announce(self, fields: Mapping[str, Any]) -> HeartbeatReply:
        """Send a heartbeat with these fields. Raises NameTaken, and then nothing was written."""
        reply = self._send(fields)
        if reply.copy_found:
            logger.warning("a copy of this box (the same id) was started elsewhere; it was refused")
            # The entry still holds what the copy said of itself.
            self._told = {}
            reply = self._send(fields)
        self.reply = reply
        if reply.older or reply.server != self._server:
            self.behind = True
            # It may know less of the box, too: the next heartbeat says everything.
            self._told = {}
        self._server, self._memory = reply.server, ServerMemory(heartbeats=reply.heartbeats, drain=reply.drain)
        if not self.behind:
            self._remember()
        return reply

    def _send(self, fields: Mapping[str, Any]) -> HeartbeatReply:
        changed = {name: value for name, value in fields.items() if self._told.get(name) != value}
        try:
            reply = self.store.announce_box(
                self.identity.name,
                self.identity.box_id,
                changed,
                timing=self.timing,
                memory=self._memory,
                boot=self.identity.boot,
            )
        except CopyRuns:
            raise CopyFound(
                f"A copy of this box runs: {self.identity.name} is up on another machine with the same id "
                f"({self.identity.box_id} in {self.file.parent / 'box.id'}), so its disk or image was copied. This "
                "worker takes nothing, and ends nothing of that box.\n"
                "Fix: pi0q worker --name NAME (where it starts by itself: PI0Q_BOX=NAME pi0q box setup)"
            ) from None
        if reply is None:
            raise NameTaken(
                f"Another machine already runs as box {self.identity.name}; this worker claims nothing.\n"
                "Fix: pi0q worker --name NAME"
            )
        self._told |= changed
        return reply

    def caught_up(self) -> None:
        """Note that the server has everything this box knows; later servers are compared with this one."""
        self.behind = False
        self._remember()

    def _remember(self) -> None:
        known = {"server": self._server, "beats": self._memory.heartbeats, "drain": self._memory.drain}
        # A full disk must not keep a box from its heartbeat.
        with contextlib.suppress(OSError):
            files.write_atomic(self.file, json.dumps(known))


def _read(file: Path) -> tuple[str, ServerMemory]:
    """Return the server's process as of the last heartbeat, and what else is remembered of its reply."""
    try:
        raw = json.loads(file.read_text())
        memory = ServerMemory(heartbeats=int(raw["beats"]), drain=str(raw.get("drain", "")))
        return str(raw["server"]), memory
    except (OSError, ValueError, KeyError, TypeError):
        return "", ServerMemory()


class Heartbeat:
    """What a box announces: its status, what it has free, and why it does not take the jobs that wait."""

    def __init__(self, context: BoxContext, registration: Registration, claims: ClaimLoop, runs: RunWatcher) -> None:
        self.context, self.registration, self.claims, self.runs = context, registration, claims, runs
        #: Tells how far the fetching for waiting jobs is.
        self.staging: Callable[[], StagingState] = StagingState
        self._caches = cached.CacheList(context.settings.hf_home)

    def announce(self, *, status: str = "") -> None:
        """Announce the box, as `status` or as what follows from its drain. Raises NameTaken."""
        host, owned = self.context.measure(), self.context.store.owned(self.context.name)
        self.context.cards.note(host.gpus)
        self.context.server_trouble = eviction(self.context.store.client) or ""
        drain = self.registration.drain
        self.registration.announce(self._fields(host, owned, status or self._status(len(owned))))
        self.context.drain = self.registration.drain
        if self.registration.drain != drain and not status:
            # The status follows from the drain that the server has just told.
            self.registration.announce({"status": self._status(len(owned))})
        if self.registration.drain == "now":
            self.runs.hand_back(owned)

    def _fields(self, host: Host, owned: Sequence[Record], status: str) -> dict[str, Any]:
        context, trainer = self.context, self.context.trainer
        cards = self.claims.announced_cards(host)
        return {
            "status": status,
            "boot": context.identity.boot,
            "version": version("pi0q"),
            "gpus": json.dumps([vars(gpu) for gpu in host.gpus]),
            # Beside `gpus`: a number that always changes must not make the server place the box anew.
            "gauges": json.dumps([vars(gauge) for gauge in card_gauges.read(host.gpus, context.settings.fake_gpus)]),
            "disk_free_mib": host.data.free_mib,
            "disk_mib": host.data.total_mib,
            "home": str(context.settings.home),
            "hf_home": str(context.settings.hf_home),
            "slots": context.slots,
            "running": len(owned),
            "used_slots": used_slots(owned),
            "lerobot": "" if isinstance(trainer, NoTrainer) else trainer.lerobot,
            "note": self._note(host),
            "idle": context.idle,
            "free_mib": json.dumps([max(0, card.free_mib) for card in cards]),
            "busy": self.claims.busy(host, owned),
            "warm": warm_boxes.complete(context.settings.hf_home),
            "caches": json.dumps(self._caches.largest()),
            "staging": self._staging(host),
            "holders": json.dumps([{"jobs": card.jobs, "shared": card.shared, "user": card.user} for card in cards]),
            "blocked": json.dumps(self.claims.blocked.to_json()) if self.claims.blocked else "",
            "refusals": refusals.dumps(self.claims.refusals),
            "plans": json.dumps(self.claims.disk_needs.shown_plans),
        }

    def _staging(self, host: Host) -> str:
        """Return what the box does while it has no card; "" where it has, or is no such box."""
        without = self.context.without_cards(host)
        if without is None:
            return ""
        return self.staging().to_json(
            no_gpu_mode=without.no_gpu_mode, fetches=without.fetches, cards=self.context.cards.cards()
        )

    def _note(self, host: Host) -> str:
        """Return what keeps the box from all jobs, or from most."""
        trainer = self.context.trainer
        parts = (
            self.context.server_trouble.replace("\n", " "),
            str(refusals.StartsFail()) if self.runs.start_failures.pausing else "",
            trainer.why if isinstance(trainer, NoTrainer) else self._card_fault(host),
        )
        return " · ".join(filter(None, parts))

    def _card_fault(self, host: Host) -> str:
        """Return why no card is seen, where that is a fault."""
        return "" if self.context.without_cards(host) else host.gpu_fault

    def _status(self, owned: int) -> str:
        if not self.registration.drain:
            return "ready"
        return "draining" if owned else "drained"

    def info(self) -> dict[str, Any]:
        """Return what Flower shows on the worker's page."""
        host, trainer = self.context.measure(), self.context.trainer
        shown = {
            f"gpu{index}": f"{gpu.name} | VRAM free {gpu.free_mib / 1024:.1f}/{gpu.total_mib / 1024:.1f} GiB"
            + (" | simulated" if gpu.simulated else "")
            for index, gpu in enumerate(host.gpus)
        }
        shown["gpus"] = str(len(host.gpus)) + (f" ({host.gpu_fault})" if host.gpu_fault else "")
        shown["data disk"] = f"{host.data.path} | {host.data.free_mib / 1024:.1f} GiB free"
        shown["system disk"] = f"{host.system.free_mib / 1024:.1f} GiB free"
        if self.registration.drain:
            shown["drain"] = str(refusals.Drained())
        shown["slots"] = f"{len(self.runs.attended)} of {self.context.slots} in use"
        shown["LeRobot"] = trainer.why if isinstance(trainer, NoTrainer) else f"{trainer.lerobot} in {trainer.python}"
        return {"pi0q": shown}
