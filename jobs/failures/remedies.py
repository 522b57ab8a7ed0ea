"""What happened to a trainer and what cures it, class by class, in sentences with the numbers of the case."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

from pi0q.jobs.failures import remedies_dataset, remedies_environment, remedies_flags
from pi0q.jobs.failures.evidence import Evidence
from pi0q.jobs.failures.gpu_memory import others_gib
from pi0q.jobs.failures.wording import (
    Words,
    gpu_words,
    innermost,
    number_in,
    plain,
    said_last,
    signal_name,
    text_of,
    used,
    when,
)
from pi0q.jobs.outcome import EXIT_LEASE_OVER, Reason
from pi0q.jobs.schema.defaults import BATCH_SIZE, NUM_WORKERS

#: Steps that go well before an out-of-memory is not the batch's plain size.
FIRST_STEPS = 3

#: A repository in the address of a request, or in LeRobot's words.
REPOSITORY = re.compile(
    r"/api/(?:datasets|models)/(?P<repo>[\w.-]+/[\w.-]+)|"
    r"https?://[^/\s]+/(?:datasets/)?(?P<name>[\w.-]+/[\w.-]+)/resolve|"
    r"on the HuggingFace Hub in (?P<model>[\w.-]+/[\w.-]+)"
)

#: Words of the driver about a card that is broken.
BROKEN_CARD = re.compile(r"uncorrectable (?:ECC|NVLink) error|fallen off the bus|NVRM: Xid|(?:GPU|device) is lost")


def _batch(evidence: Evidence) -> int:
    return int(evidence.train.get("batch_size", BATCH_SIZE))


def _unknown(evidence: Evidence) -> Words:
    if "Too many open files" in text_of(evidence):
        return (
            "",
            "In the file: a lower num_workers; or raise the limit on the box (`ulimit -n 65536`, then a new worker).",
        )
    return "", "No known fix. Traceback: `pi0q logs {id}`."


def _denied(evidence: Evidence) -> Words:
    """Names the repository, which the first line of the Hub's words does not."""
    repo, page = _repository(evidence)
    if not repo:
        return "", ""
    return f"the Hub does not give {repo} to this box: {plain(evidence)}", (
        f"Accept its terms on {page} with the account whose token the box has (`hf auth login` there), then try again."
    )


def _absent(evidence: Evidence) -> Words:
    repo, page = _repository(evidence)
    if not repo:
        return "", ""
    return f"the Hub has no {repo} that this box may see: {plain(evidence)}", (
        f"Check the name in the file: is {page} there? If it is private, `hf auth login` on the box with an account "
        "that may read it; then try again."
    )


def _repository(evidence: Evidence) -> tuple[str, str]:
    """The repository that was asked for, and its page; "" if nobody names it."""
    found = REPOSITORY.search(" ".join([text_of(evidence), *(cause.text for cause in evidence.behind())]))
    if not found:
        return "", ""
    repo = str(found["repo"] or found["name"] or found["model"])
    return repo, f"https://huggingface.co/{'datasets/' if '/datasets/' in found[0] else ''}{repo}"


def _gpu_memory(evidence: Evidence) -> Words:
    text = text_of(evidence)
    wanted = number_in(r"Tried to allocate ([\d.]+ [KMG]iB)", text)
    total = number_in(r"total capacity of ([\d.]+ [KMG]iB)", text)
    free = number_in(r"of which ([\d.]+ [KMG]iB) is free", text)
    numbers = f": it wanted {wanted} more" * bool(wanted) + f", {free} of {total} were free" * bool(free and total)
    told = f"CUDA out of memory{when(evidence)} with batch_size {_batch(evidence)}{numbers}"
    less = f"In the file: {', '.join(_savings(evidence))}; or ask for a larger GPU with resources.vram."
    if (evidence.step or 0) > FIRST_STEPS:
        held = f"It went well for {evidence.step} steps, so little is lacking"
        return told, f"{held} (a larger batch of data, or fragments). {less} Submitted again, it starts anew."
    return told, less


def _savings(evidence: Evidence) -> list[str]:
    """What lowers the GPU's memory in this very file, the cheapest first."""
    train, found = evidence.train, list[str]()
    large = str(train.get("policy.type", "")).startswith(("pi0", "smolvla"))
    if large and train.get("policy.gradient_checkpointing") is not True:
        found.append("policy.gradient_checkpointing: true")
    if large and train.get("policy.dtype", "float32") == "float32":
        found.append("policy.dtype: bfloat16 (is float32)")
    if (batch := _batch(evidence)) > 1:
        found.append(f"batch_size: {batch // 2} (is {batch})")
    if large and train.get("policy.train_expert_only") is not True:
        found.append("policy.train_expert_only: true")
    return found or ["a smaller policy"]


def _taken(evidence: Evidence) -> Words:
    text = text_of(evidence)
    told = f"other processes hold {others_gib(text):.1f} GiB of the GPU's memory: CUDA out of memory{when(evidence)}"
    return told, ""


def _host_memory(evidence: Evidence) -> Words:
    memory = evidence.memory
    whose = "the container's memory limit" if memory.container else "the box's memory"
    if memory.oom_kills and evidence.signal == signal.SIGKILL:
        size = f" of {memory.limit_mib / 1024:.1f} GiB" if memory.limit_mib else ""
        told = f"the kernel killed the trainer for {whose}{size}{when(evidence)}"
    else:
        told = f"{plain(evidence)}; that is {whose}{used(evidence)}"
    return told, _less_host_memory(evidence)


def _platform(evidence: Evidence) -> Words:
    told = f"the platform killed the trainer (SIGKILL){when(evidence)} while the memory was full{used(evidence)}"
    return told, _less_host_memory(evidence)


def _less_host_memory(evidence: Evidence) -> str:
    workers = int(evidence.train.get("num_workers", NUM_WORKERS))
    less = [f"num_workers: {workers // 2} (is {workers}; each holds batches of its own)"] * (workers > 0)
    less += [f"batch_size: {_batch(evidence) // 2} (is {_batch(evidence)})"] * (_batch(evidence) > 1)
    return f"In the file: {', '.join(less) or 'a smaller policy'}; or use a box with more memory (not VRAM)."


def _someone(evidence: Evidence) -> Words:
    memory = evidence.memory
    innocent = f"; memory was not the cause{used(evidence)}" if memory.used_mib and memory.limit_mib else ""
    number = evidence.signal or signal.SIGTERM
    return f"something killed the trainer ({signal_name(number)}){when(evidence)}{innocent}", ""


def _crashed(evidence: Evidence) -> Words:
    how: dict[int, str] = {
        signal.SIGILL: "an instruction that this processor lacks",
        signal.SIGSEGV: "a segmentation fault",
        signal.SIGABRT: "an abort",
        signal.SIGBUS: "a bus error",
        signal.SIGFPE: "an arithmetic fault",
    }
    name = how.get(evidence.signal, "a crash") if evidence.signal else "a crash of a data loader"
    where = innermost(evidence.lines)
    last = "" if where else said_last(evidence)
    told = f"the trainer crashed ({name}){when(evidence)}{f' in {where}' if where else ''}{last}"
    if evidence.signal == signal.SIGILL:
        return told, "A library was built for another processor: install torch and its friends anew on this box, " \
                     "or use another one."  # fmt: skip
    return told, ""


def _shm(evidence: Evidence) -> Words:
    size = f" of {evidence.shm_mib} MiB" if evidence.shm_mib is not None else ""
    workers = evidence.train.get("num_workers", NUM_WORKERS)
    told = f"the data loaders ran out of shared memory (/dev/shm{size}){when(evidence)}"
    return told, (
        f"In the file: num_workers: 0 (is {workers}); or start the container with a larger /dev/shm (--shm-size=16g)."
    )


def _disk(evidence: Evidence) -> Words:
    left = f"; {evidence.disk_free_mib} MiB are left" if evidence.disk_free_mib is not None else ""
    if evidence.disk_free_inodes is not None and evidence.disk_free_inodes < 1000:
        left = f"; no more files can be made ({evidence.disk_free_inodes} inodes left)"
    return f"{plain(evidence)}{left}", ""


def _nan(evidence: Evidence) -> Words:
    raised = evidence.raised()
    lr = evidence.train.get("policy.optimizer_lr") or evidence.train.get("optimizer.lr")
    at = f" (is {lr})" if lr else ""
    early = "" if (evidence.step or 0) > FIRST_STEPS else " So early, the data are the likelier cause."
    return raised.text if raised.kind == "NonFiniteLoss" else "the loss became NaN or infinite" + when(evidence), (
        "Nothing was saved after it: the last checkpoint is finite and is kept. Lower the learning rate, "
        f"policy.optimizer_lr{at}, or look for NaN and outliers in the data.{early}"
    )


def _hung(evidence: Evidence) -> Words:
    """Who stood where is added by `with_stacks`."""
    silent = f"no step for {evidence.silent_seconds:.0f} s" if evidence.silent_seconds else "no step for too long"
    return silent + when(evidence), ""


def _stopped(evidence: Evidence) -> Words:
    if evidence.exit_code == EXIT_LEASE_OVER:
        return "the trainer stood still until its lease was over; it stopped without a save", ""
    return "the trainer was asked to stop; it saved and stopped", ""


def _finished(evidence: Evidence) -> Words:
    return f"reached step {evidence.step}", ""


def _lost(evidence: Evidence) -> Words:
    told = "; ".join(gpu_words(evidence)) or plain(evidence)
    return f"the GPU broke down{when(evidence)}: {told}", ""


def _cuda(evidence: Evidence) -> Words:
    """A word in an exception drains no box: the card's own counters do, and a person who looked."""
    told = " ".join([text_of(evidence), *(cause.text for cause in evidence.behind()), *evidence.lines[-40:]])
    if not BROKEN_CARD.search(told):
        return "", ""
    return "", (
        "Its words are those of a broken card, but the driver's own counters show no fault, so the box takes jobs on. "
        "Look at `nvidia-smi -q -d ECC` and `dmesg | grep -i xid` on the box; if the card is broken, "
        "`pi0q drain BOX`. It is tried once more, on another box first."
    )


WORDS: dict[Reason, Callable[[Evidence], Words]] = {
    Reason.FINISHED: _finished,
    Reason.STOPPED_BY_BOX: _stopped,
    Reason.HUNG: _hung,
    Reason.NOT_ON_HUB: _absent,
    Reason.NEEDS_ACCESS: _denied,
    Reason.SPEC_REFUSED: remedies_flags.refused,
    Reason.CUDA_OUT_OF_MEMORY: _gpu_memory,
    Reason.GPU_TAKEN: _taken,
    Reason.MEMORY_LIMIT: _host_memory,
    Reason.PLATFORM_KILLED: _platform,
    Reason.TRAINER_KILLED: _someone,
    Reason.TRAINER_CRASHED: _crashed,
    Reason.SHM_FULL: _shm,
    Reason.DISK_FULL: _disk,
    Reason.DISK_BROKEN: _disk,
    Reason.DATASET_FORMAT: remedies_dataset.old_format,
    Reason.DATASET_MISSING: remedies_dataset.missing,
    Reason.WEIGHTS_DAMAGED: remedies_dataset.damaged_weights,
    Reason.DATASET_DAMAGED: remedies_dataset.damaged,
    Reason.CUDA_ERROR: _cuda,
    Reason.NON_FINITE_LOSS: _nan,
    Reason.GPU_LOST: _lost,
    Reason.TRAINER_BROKEN: remedies_environment.broken,
    Reason.TRAINER_FAILED: _unknown,
}
