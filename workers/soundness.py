"""Whether this box can train at all: looked at once per trainer and boot, in the trainer's own Python, and remembered.

    Soundness.begin -> look (a thread, half a minute of LeRobot's imports) -> Soundness.troubles(job)

What is wrong here refuses a job on this box and says nothing of the job.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0q.jobs.dataset import Facts, newer
from pi0q.jobs.diagnosis import judge
from pi0q.jobs.evidence import Evidence
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.interpreter import Trainer

LOOK = Path(__file__).with_name("look_at_trainer.py")
#: Seconds that LeRobot, torch and transformers may take to be imported from a slow disk (25 s on two cores).
LOOK_SECONDS = 240.0
#: Seconds after which a box that something is wrong with is looked at again: its owner may have mended it.
AGAIN_SECONDS = 300.0
#: A clock that is wrong by more than this makes every certificate invalid, seconds.
CLOCK_SECONDS = 86400.0
#: Less than this and AutoDL has started the container without a GPU, which gives it 2 GiB.
NO_CARD_MIB = 3 * 1024
#: Loading the base of pi0 takes this much memory, its weights in 32 bits.
BASE_MIB = 14 * 1024
#: LeRobot's own number of processes that load data where a job names none.
DATA_PROCESSES = 4
SHARED_MEMORY = Path("/dev/shm")
CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")
_BIG = frozenset({"pi0", "pi05", "pi0_fast"})


def look(python: str, env: Mapping[str, str]) -> dict[str, Any]:
    """What that interpreter says of itself, see look_at_trainer.py; `error` where it says nothing."""
    # What lies beside a script, or in the working directory, would be imported first.
    with tempfile.TemporaryDirectory() as nowhere:
        try:
            done = subprocess.run(
                [python, "-c", LOOK.read_text(encoding="utf-8")],
                env={**env, "HF_HUB_OFFLINE": "1"},
                cwd=nowhere,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LOOK_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"it did not import LeRobot within {LOOK_SECONDS:.0f} s"}
        except OSError as error:
            return {"error": str(error)}
    try:
        told = json.loads(done.stdout.splitlines()[-1])
        return told if isinstance(told, dict) else {"error": "it says nothing that can be read"}
    except (ValueError, IndexError):
        said = tuple(done.stderr.strip().splitlines())
        return {"error": judge(Evidence(exit_code=done.returncode, log=said)).detail[:300]}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What of the machine can end a training; None where it can't be known or has no limit."""

    shared_mib: int | None
    memory_mib: int | None
    #: How far this machine's clock is from the server's, seconds.
    clock: float = 0.0


def machine(*, clock: float = 0.0, shared: Path = SHARED_MEMORY, cgroup: Path = CGROUP_MEMORY) -> Machine:
    """This machine as it is now."""
    shared_mib = memory_mib = None
    with contextlib.suppress(OSError):
        stats = os.statvfs(shared)
        shared_mib = stats.f_blocks * stats.f_frsize >> 20
    with contextlib.suppress(OSError, ValueError):
        memory_mib = int(cgroup.read_text()) >> 20
    return Machine(shared_mib=shared_mib, memory_mib=memory_mib, clock=clock)


def troubles(
    seen: Mapping[str, Any], here: Machine, spec: Spec, *, facts: Facts | None, simulated: bool, online: bool
) -> Iterator[str]:
    """Why this box can't run the job, each with its cure. Pure.

    Args:
        seen: What `look` gave.
        facts: Of the job's dataset, where they are known.
        simulated: Whether the box's cards are simulated, which torch does not see.
        online: Whether the job needs the network.
    """
    train = spec.train
    yield from _environment(seen, str(train.get("policy.type")), wandb=bool(train.get("wandb.enable")))
    on_gpu = train.get("policy.device") != "cpu" and spec.resources.gpus != 0
    if on_gpu and not simulated:
        yield from _cuda(seen)
    if facts and facts.videos:
        yield from _decoder(seen.get("decoders") or {}, str(train.get("dataset.video_backend") or ""))
    if facts and (told := newer(facts)):
        yield told
    yield from _memory(here, spec, on_gpu=on_gpu and not simulated, frame_bytes=facts.frame_bytes if facts else 0)
    if online and abs(here.clock) > CLOCK_SECONDS:
        days = abs(here.clock) / 86400
        yield f"clock: {days:.0f} days off the server's, so no certificate is valid here: sudo timedatectl set-ntp true"


def _environment(seen: Mapping[str, Any], policy: str, *, wandb: bool) -> Iterator[str]:
    mend = "`pi0q doctor` on the box says what mends it"
    if seen.get("error"):
        yield f"trainer: {seen['error']}; {mend}"
    elif not seen.get("torch"):
        yield f"trainer: torch can't be imported ({seen.get('torch_error')}); {mend}"
    elif seen.get("train_error"):
        yield f"trainer: LeRobot's train script can't be imported ({seen['train_error']}); {mend}"
    else:
        if seen.get("pi0_error") and policy in _BIG:
            yield f"trainer: pi0 can't be imported ({seen['pi0_error']}); {mend}"
        if wandb and not seen.get("wandb"):
            yield "trainer: it has no wandb, and the job sets wandb.enable: pip install 'wandb>=0.20,<1' there"


def _cuda(seen: Mapping[str, Any]) -> Iterator[str]:
    if not seen.get("torch"):
        return
    if not seen.get("cuda"):
        built = f"for CUDA {seen['built']}" if seen.get("built") else "without CUDA"
        yield (
            f"cuda: torch {seen['torch']} (built {built}) can't use the GPU "
            f"({seen.get('cuda_error') or 'it sees none'}): a torch for this driver, or a newer driver"
        )
    elif odd := [f"{card['name']} ({card['arch']})" for card in seen.get("cards", ()) if not card["fits"]]:
        yield f"cuda: torch {seen['torch']} has no kernels for {', '.join(odd)}: a newer torch is needed"


def _decoder(decoders: Mapping[str, str], backend: str) -> Iterator[str]:
    fault = decoders.get(backend)
    if not fault:
        return
    other = next((name for name, wrong in decoders.items() if name and name != backend and not wrong), "")
    cure = f"write train.dataset.video_backend: {other}, or " if other else ""
    yield (
        f"decoder: {backend or 'the decoder that LeRobot takes'} gives no frame here ({fault.split('. ')[0][:120]}); "
        f"{cure}install ffmpeg in the trainer's environment: conda install -c conda-forge 'ffmpeg<8'"
    )


def _memory(here: Machine, spec: Spec, *, on_gpu: bool, frame_bytes: int) -> Iterator[str]:
    train = spec.train
    if here.memory_mib is not None and not spec.rehearsal:
        gib = here.memory_mib / 1024
        if on_gpu and here.memory_mib <= NO_CARD_MIB:
            yield f"memory: {gib:.1f} GiB in all, as a container that was started without its GPU has (无卡模式)"
        elif train.get("policy.type") in _BIG and here.memory_mib < BASE_MIB:
            yield f"memory: this container may use {gib:.1f} GiB, and the weights of pi0 pass through 14 GiB of it"
    processes, batch = train.get("num_workers", DATA_PROCESSES), train.get("batch_size", 8)
    if here.shared_mib is not None and isinstance(processes, int) and isinstance(batch, int):
        # One batch in the making by each: less than that is certain death.
        mib = processes * (2 if spec.rehearsal else batch) * frame_bytes >> 20
        if mib > here.shared_mib and not spec.rehearsal:
            yield (
                f"shared memory: /dev/shm holds {here.shared_mib} MiB, {processes} data processes hand over {mib} MiB: "
                "train.num_workers: 0 in the job file, or a container with more (--shm-size)"
            )


def changed(python: str) -> int:
    """When something was last installed beside this interpreter, ns; 0 if that can't be seen."""
    places = Path(python).parent.parent.glob("lib/python*/site-packages")
    with contextlib.suppress(OSError):
        return max((place.stat().st_mtime_ns for place in places), default=0)
    return 0


class Soundness:
    """What was looked at here, remembered in `PI0Q_HOME/trainer.json`."""

    def __init__(self, settings: Settings, boot: str, *, cards: Callable[[], bool], done: Callable[[], None]) -> None:
        """`cards` says whether there are cards that torch must see; `done` is called, from another thread, whenever
        a look is over."""
        self.settings, self.boot, self.cards, self.done = settings, boot, cards, done
        self.file = settings.home / "trainer.json"
        self.seen: dict[str, Any] | None = None
        #: Whether nothing is known yet because it is being looked at.
        self.looking = False
        self._key: list[Any] = []
        self._again = float("inf")

    def begin(self, trainer: Trainer) -> None:
        """Looks, unless that was done since the boot and nothing was wrong."""
        key = [self.boot, trainer.python, trainer.lerobot, changed(trainer.python)]
        if self.looking or (self._key == key and time.monotonic() < self._again):
            return
        if self._key != key and (known := self._memory(key)) is not None:
            self.seen, self._key, self._again = known, key, float("inf")
            return
        self.looking, self._key = True, key
        threading.Thread(target=self._look, args=(trainer, key), name="soundness", daemon=True).start()

    def _look(self, trainer: Trainer, key: list[Any]) -> None:
        try:
            # The trainer's own environment, as far as imports go.
            self.seen = look(trainer.python, os.environ)
        except Exception as error:
            self.seen = {"error": f"it could not be looked at: {type(error).__name__}: {error}"}
        good = not any(self.seen.get(fault) for fault in ("error", "train_error", "torch_error"))
        good = good and (bool(self.seen.get("cuda")) or not self.cards())
        self._again = float("inf") if good else time.monotonic() + AGAIN_SECONDS
        if good:
            self._remember(key)
        self.looking = False
        self.done()

    def _memory(self, key: list[Any]) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(self.file.read_text(encoding="utf-8"))
            if known["key"] == key:
                return dict(known["seen"])
        return None

    def _remember(self, key: list[Any]) -> None:
        fresh = self.file.with_suffix(f".{os.getpid()}")
        # It only saves the next look.
        with contextlib.suppress(OSError):
            fresh.write_text(json.dumps({"key": key, "seen": self.seen}), encoding="utf-8")
            fresh.replace(self.file)

    def troubles(
        self, spec: Spec, *, facts: Facts | None, simulated: bool, online: bool, clock: float, waits: bool
    ) -> list[str]:
        """Why this box can't run the job; `waits`: whether it is to wait for a look that goes on."""
        if self.looking and self.seen is None and waits:
            return ["preflight: the trainer's environment is looked at, LeRobot's imports take half a minute"]
        here = machine(clock=clock)
        return list(troubles(self.seen or _UNKNOWN, here, spec, facts=facts, simulated=simulated, online=online))


#: While nothing is known of the environment nothing is held against it.
_UNKNOWN: Mapping[str, Any] = {"torch": "unknown", "cuda": True, "wandb": "unknown"}
