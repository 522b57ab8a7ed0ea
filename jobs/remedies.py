"""What happened to a trainer and what cures it, class by class, in sentences with the numbers of the case."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

from pi0q.jobs.evidence import Evidence, others_gib
from pi0q.jobs.outcome import EXIT_LEASE_OVER, Reason
from pi0q.jobs.phrases import (
    gpu_words,
    innermost,
    number_in,
    plain,
    said_last,
    short,
    signal_name,
    text_of,
    used,
    when,
)

#: LeRobot's own, where the file is silent.
DEFAULT_BATCH, DEFAULT_WORKERS = 8, 4
#: Steps that go well before an out-of-memory is not the batch's plain size.
FIRST_STEPS = 3

#: A repository in the address of a request, or in LeRobot's words.
REPOSITORY = re.compile(
    r"/api/(?:datasets|models)/(?P<repo>[\w.-]+/[\w.-]+)|"
    r"https?://[^/\s]+/(?:datasets/)?(?P<name>[\w.-]+/[\w.-]+)/resolve|"
    r"on the HuggingFace Hub in (?P<model>[\w.-]+/[\w.-]+)"
)

#: What happened and the cure, both in full sentences; an empty one leaves the usual.
Words = tuple[str, str]


def _batch(evidence: Evidence) -> int:
    return int(evidence.train.get("batch_size", DEFAULT_BATCH))


def _unknown(evidence: Evidence) -> Words:
    if "Too many open files" in text_of(evidence):
        return (
            "",
            "In the file: a lower num_workers; or raise the limit on the box (`ulimit -n 65536`, then a new worker).",
        )
    return "", "There is no cure that pi0q knows: its log has the traceback (`pi0q logs ID`)."


def _refused(evidence: Evidence) -> Words:
    flag = re.search(r"unrecognized arguments: (.+)|argument --(\S+?):|`([\w.]+)`", text_of(evidence))
    name = next((part for part in flag.groups() if part), "") if flag else ""
    at = f" (it is about {short(name)})" if name else ""
    return "", f"LeRobot {evidence.lerobot} refuses this job's flags{at}: mend the file and try again."


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
    found = REPOSITORY.search(" ".join([text_of(evidence), *evidence.behind()]))
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
    workers = int(evidence.train.get("num_workers", DEFAULT_WORKERS))
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
    workers = evidence.train.get("num_workers", DEFAULT_WORKERS)
    told = f"the data loaders ran out of shared memory (/dev/shm{size}){when(evidence)}"
    return told, (
        f"In the file: num_workers: 0 (is {workers}); or start the container with a larger /dev/shm (--shm-size=16g)."
    )


def _disk(evidence: Evidence) -> Words:
    left = f"; {evidence.disk_free_mib} MiB are left" if evidence.disk_free_mib is not None else ""
    if evidence.disk_free_inodes is not None and evidence.disk_free_inodes < 1000:
        left = f"; no more files can be made ({evidence.disk_free_inodes} inodes left)"
    return f"{plain(evidence)}{left}", ""


def _format(evidence: Evidence) -> Words:
    text, repo = text_of(evidence), evidence.train.get("dataset.repo_id", "the dataset")
    newer = "ForwardCompatibility" in evidence.spoken()[0] or "newer" in text or "9.9" in text
    found = re.search(r"\b(?:is )?in v?(\d\.\d) format|v(\d\.\d)", text)
    version = next((part for part in found.groups() if part), "") if found else ""
    if newer and not text.startswith("Your dataset must"):
        return f"{repo} was written by a newer LeRobot than {evidence.lerobot}{when(evidence)}", \
               "Use a box with a newer LeRobot (`pi0q boxes` shows them)."  # fmt: skip
    if "tagged" in text:
        return f"{repo} has no version tag on the Hub, so LeRobot does not read it", (
            f"Tag it once: python -c \"from huggingface_hub import HfApi; HfApi().create_tag('{repo}', tag='v3.0', "
            "repo_type='dataset')\"; then try again."
        )
    converter = f"python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id={repo}"
    if version == "2.0" or "NotImplementedError" in evidence.spoken()[0]:
        return f"{repo} has the old format v2.0, LeRobot {evidence.lerobot} reads v3.0", (
            "Convert it in two steps: with LeRobot 0.3.3, `python -m "
            "lerobot.datasets.v21.convert_dataset_v20_to_v21 --repo-id=" + f"{repo}`; then `{converter}`."
        )
    return f"{repo} has the old format v{version or '2.1'}, LeRobot {evidence.lerobot} reads v3.0", (
        f"Convert it once: `{converter}` (the box's trainer environment has it), then try again."
    )


def _missing(evidence: Evidence) -> Words:
    repo, root = evidence.train.get("dataset.repo_id", "the dataset"), evidence.train.get("dataset.root")
    if not root:
        return "", ""
    told = f"{repo} is not whole in {root}: LeRobot wanted to fetch the rest ({plain(evidence)})"
    return told, "See that dataset.root names the right directory and that it has meta/, data/ and videos/, and that " \
                 "dataset.episodes are among its episodes; then try again."  # fmt: skip


def _nan(evidence: Evidence) -> Words:
    kind, text = evidence.spoken()
    lr = evidence.train.get("policy.optimizer_lr") or evidence.train.get("optimizer.lr")
    at = f" (is {lr})" if lr else ""
    early = "" if (evidence.step or 0) > FIRST_STEPS else " So early, the data are the likelier cause."
    return text if kind == "NonFiniteLoss" else "the loss became NaN or infinite" + when(evidence), (
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
    return "the trainer was told to stop; it saved and stopped", ""


def _finished(evidence: Evidence) -> Words:
    return f"reached step {evidence.step}", ""


def _lost(evidence: Evidence) -> Words:
    told = "; ".join(gpu_words(evidence)) or plain(evidence)
    return f"the GPU broke down{when(evidence)}: {told}", ""


def _broken(evidence: Evidence) -> Words:
    text = f"{text_of(evidence)} {' '.join(evidence.behind())}"
    if re.search(r"libtorchcodec|libavutil|FFmpeg", text):
        return "", (
            "Videos can't be decoded there: install FFmpeg (`conda install -c conda-forge 'ffmpeg>=6,<8'`, or by apt) "
            "and the torchcodec of the box's torch; `pi0q doctor` on the box tries it."
        )
    if "transformer" in text or any("CONFIG_MAPPING[" in line for line in evidence.lines):
        return "", (
            "LeRobot wants another transformers for this policy: 0.6.1 wants 5.4 to 5.5 "
            "(`pip install 'lerobot[pi]==0.6.1'` in the box's trainer environment), 0.4 its patched one. "
            "Then try again."
        )
    missing = re.search(r"No module named '([\w.]+)'", text)
    if missing:
        return "", f"The box's trainer environment lacks {missing[1]}: install it there, then try again."
    return "", ""


WORDS: dict[Reason, Callable[[Evidence], Words]] = {
    Reason.FINISHED: _finished,
    Reason.STOPPED_BY_BOX: _stopped,
    Reason.HUNG: _hung,
    Reason.NOT_ON_HUB: _absent,
    Reason.NEEDS_ACCESS: _denied,
    Reason.SPEC_REFUSED: _refused,
    Reason.CUDA_OUT_OF_MEMORY: _gpu_memory,
    Reason.GPU_TAKEN: _taken,
    Reason.MEMORY_LIMIT: _host_memory,
    Reason.PLATFORM_KILLED: _platform,
    Reason.TRAINER_KILLED: _someone,
    Reason.TRAINER_CRASHED: _crashed,
    Reason.SHM_FULL: _shm,
    Reason.DISK_FULL: _disk,
    Reason.DISK_BROKEN: _disk,
    Reason.DATASET_FORMAT: _format,
    Reason.DATASET_MISSING: _missing,
    Reason.NON_FINITE_LOSS: _nan,
    Reason.GPU_LOST: _lost,
    Reason.TRAINER_BROKEN: _broken,
    Reason.TRAINER_FAILED: _unknown,
}
