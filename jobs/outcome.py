"""How a run can end, what follows from it, and what its user reads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: Attempts in a row without a new checkpoint before a failure that might pass by itself ends a job.
MAX_ATTEMPTS = 3
#: Interruptions in a row without a new checkpoint before the job is taken for the cause of them.
MAX_FRUITLESS_RUNS = 8

#: The longest that a job rests before it is tried again, whoever asked for longer.
MAX_REST_SECONDS = 1800.0

#: Exit codes of the trainer hook (workers/run/pi0q_trainer); 75 is EX_TEMPFAIL of sysexits.h.
EXIT_SAVED_AND_STOPPED = 75
EXIT_NON_FINITE = 76
EXIT_LEASE_OVER = 77


class Reason(str, Enum):
    """Why a job is where it is, when that needs a reason."""

    FINISHED = "finished"
    CANCELLED_BY_USER = "cancelled_by_user"
    # The user's to mend: never tried again by itself.
    SPEC_REFUSED = "spec_refused"
    NEEDS_ACCESS = "needs_access"
    NOT_ON_HUB = "not_on_hub"
    CUDA_OUT_OF_MEMORY = "cuda_out_of_memory"
    NON_FINITE_LOSS = "non_finite_loss"
    TRAINER_BROKEN = "trainer_broken"
    REHEARSAL_FAILED = "rehearsal_failed"
    CRASH_LOOP = "crash_loop"
    WANDB_REFUSED = "wandb_refused"
    DATASET_MISSING = "dataset_missing"
    DATASET_FORMAT = "dataset_format"
    DATASET_DAMAGED = "dataset_damaged"
    WEIGHTS_DAMAGED = "weights_damaged"
    COMPILE_FAILED = "compile_failed"
    SHM_FULL = "shm_full"
    # May pass by themselves: tried again, `Outcome.attempts` in all.
    TRAINER_FAILED = "trainer_failed"
    TRAINER_KILLED = "trainer_killed"
    NOT_CACHED = "not_cached"
    DISK_BROKEN = "disk_broken"
    HUNG = "hung"
    MEMORY_LIMIT = "memory_limit"
    PLATFORM_KILLED = "platform_killed"
    TRAINER_CRASHED = "trainer_crashed"
    CUDA_ERROR = "cuda_error"
    NO_CUDA = "no_cuda"
    NCCL = "nccl"
    # Will pass by itself: tried again after a rest, as often as it takes.
    NETWORK = "network"
    # The same, once there is room for all that it needs: `Record.disk_plan` says how much.
    DISK_LOW = "disk_low"
    DISK_FULL = "disk_full"
    # Interruptions: not the job's doing, no attempt is used up.
    RUNNER_LOST = "runner_lost"
    BOX_RESTARTED = "box_restarted"
    LEASE_EXPIRED = "lease_expired"
    STOPPED_BY_BOX = "stopped_by_box"
    #: It waits until its user releases it.
    HELD = "held"
    GPU_LOST = "gpu_lost"
    GPU_TAKEN = "gpu_taken"

    def __str__(self) -> str:
        return self.value


class Next(str, Enum):
    """What pi0q does after a run that ended for some reason."""

    DONE = "done"
    FAIL = "fail"
    RETRY = "retry"
    GO_ON = "go_on"
    REST = "rest"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What follows from a reason."""

    next: Next
    #: One sentence for the user: what it means and what cures it.
    cure: str
    #: Seconds in the queue before the next try; twice that the next time, MAX_REST_SECONDS at most.
    rest_seconds: float = 0.0
    #: It says something of the box: another one is let in first, where none of its steps are lost by that.
    elsewhere: bool = False
    #: Attempts in a row without a new checkpoint before this reason, where it may pass by itself, ends a job.
    attempts: int = MAX_ATTEMPTS


OUTCOMES: dict[Reason, Outcome] = {
    Reason.FINISHED: Outcome(next=Next.DONE, cure="The training reached its last step."),
    Reason.CANCELLED_BY_USER: Outcome(next=Next.DONE, cure="Someone cancelled it."),
    Reason.SPEC_REFUSED: Outcome(next=Next.FAIL, cure="The trainer refuses these flags: mend the file and try again."),
    Reason.NEEDS_ACCESS: Outcome(
        next=Next.FAIL,
        cure="The Hub does not let this box in: run `hf auth login` on the box, accept the repository's terms on its "
        "page with that account, then try again.",
    ),
    Reason.NOT_ON_HUB: Outcome(
        next=Next.FAIL, cure="The Hub has no such repository or revision: check the name in the file."
    ),
    Reason.CUDA_OUT_OF_MEMORY: Outcome(
        next=Next.FAIL,
        cure="The GPU's memory did not suffice: lower batch_size, set policy.gradient_checkpointing: true, "
        "or ask for more with resources.vram.",
    ),
    Reason.NON_FINITE_LOSS: Outcome(
        next=Next.FAIL,
        cure="The loss became NaN or infinite; the last good checkpoint is kept: lower the learning rate "
        "or look at the data.",
    ),
    Reason.TRAINER_BROKEN: Outcome(
        next=Next.FAIL,
        cure="LeRobot can't run in the box's trainer environment: see the log, then mend that environment.",
    ),
    Reason.REHEARSAL_FAILED: Outcome(
        next=Next.FAIL,
        cure="The rehearsal before the long run failed, as the run would have: see the log. "
        "`preflight: {rehearse: never}` in the file does without one.",
    ),
    Reason.CRASH_LOOP: Outcome(
        next=Next.FAIL,
        cure=f"{MAX_FRUITLESS_RUNS} runs in a row died without a new checkpoint: see the log.",
    ),
    Reason.WANDB_REFUSED: Outcome(
        next=Next.FAIL,
        cure="WandB refuses this box: run `wandb login` there, or set `wandb: {enable: false}` in the file, "
        "then try again.",
    ),
    Reason.DATASET_MISSING: Outcome(
        next=Next.FAIL,
        cure="The dataset is not where the file says: check dataset.repo_id and dataset.root (looked for below "
        "PI0Q_DATASET_ROOTS on the box), then try again.",
    ),
    Reason.DATASET_FORMAT: Outcome(
        next=Next.FAIL,
        cure="The dataset's format is not that of the box's LeRobot: convert the dataset, or use the LeRobot that "
        "wrote it, then try again.",
    ),
    Reason.DATASET_DAMAGED: Outcome(
        next=Next.FAIL,
        cure="A file of the dataset can't be read: if it came from the Hub, `pi0q cache rm REPOSITORY` on the box and "
        "try again; if it is wrong there too, it must be recorded or uploaded anew.",
    ),
    Reason.WEIGHTS_DAMAGED: Outcome(
        next=Next.FAIL,
        cure="The weights it starts from can't be read: `pi0q cache rm REPOSITORY` on the box, then try again.",
    ),
    Reason.COMPILE_FAILED: Outcome(
        next=Next.FAIL,
        cure="This model can't be compiled on this GPU: set policy.compile_model: false and try again.",
    ),
    Reason.SHM_FULL: Outcome(
        next=Next.FAIL,
        cure="The data loaders ran out of shared memory: set num_workers: 0 in the file, or start the container with "
        "more of it (--shm-size=16g).",
    ),
    Reason.TRAINER_FAILED: Outcome(
        next=Next.RETRY, cure="The trainer ended with an error: see the last lines of its log."
    ),
    Reason.TRAINER_KILLED: Outcome(
        next=Next.RETRY,
        cure="Something on the box killed the trainer (a person, the platform); it is tried again.",
    ),
    Reason.MEMORY_LIMIT: Outcome(
        next=Next.RETRY,
        cure="The box's memory (not the GPU's) did not suffice: lower num_workers or batch_size, or use a larger box.",
        attempts=2,
    ),
    Reason.PLATFORM_KILLED: Outcome(
        next=Next.RETRY,
        cure="The platform killed the trainer while the box's memory was nearly full: lower num_workers or batch_size, "
        "or use a larger box.",
        attempts=2,
    ),
    Reason.TRAINER_CRASHED: Outcome(
        next=Next.RETRY,
        cure="A library under the trainer crashed; if it happens again, mend the box's trainer environment: "
        "`pi0q doctor` on the box.",
        attempts=2,
        elsewhere=True,
    ),
    Reason.CUDA_ERROR: Outcome(
        next=Next.RETRY,
        cure="The GPU refused a computation; twice in the same place is the model's or the data's doing, elsewhere the "
        "card's or the driver's.",
        attempts=2,
        elsewhere=True,
    ),
    Reason.NO_CUDA: Outcome(
        next=Next.RETRY,
        cure="The trainer can't use the box's GPU: `pi0q doctor` on the box says what driver and torch lack.",
        attempts=2,
        elsewhere=True,
    ),
    Reason.NCCL: Outcome(
        next=Next.RETRY,
        cure="The GPUs lost each other: look for the first rank that failed in the log, and at `nvidia-smi topo -m`.",
    ),
    Reason.NOT_CACHED: Outcome(
        next=Next.RETRY,
        cure="The trainer wanted something that is not in the box's cache, where alone it looks; it is fetched again "
        "for the next try.",
        attempts=2,
    ),
    Reason.DISK_BROKEN: Outcome(
        next=Next.RETRY,
        cure="The box's disk refuses to work (read-only, I/O error, a share that went away): look at it, or restart "
        "the box.",
        attempts=2,
        elsewhere=True,
    ),
    Reason.NETWORK: Outcome(
        next=Next.REST,
        cure="What it needs could not be fetched from the Hub; it is tried again by itself and no attempt is used up.",
        rest_seconds=60.0,
    ),
    Reason.DISK_FULL: Outcome(
        next=Next.REST,
        cure="A disk of the box filled up; the last good checkpoint is kept and no attempt is used up. It goes on by "
        "itself where there is room: `pi0q why ID` says how much, `pi0q cache ls` on the box what fills it.",
    ),
    Reason.DISK_LOW: Outcome(
        next=Next.REST,
        cure="The box's data disk ran low, so it stopped in time; no attempt is used up. It goes on by itself where "
        "there is room: `pi0q why ID` says how much, `pi0q cache ls` on the box what fills it.",
    ),
    Reason.HUNG: Outcome(
        next=Next.RETRY,
        cure="The trainer did no step for too long and was ended; its log shows where each of its threads stood.",
        attempts=2,
    ),
    Reason.RUNNER_LOST: Outcome(next=Next.GO_ON, cure="The runner died; the job goes on from its checkpoint."),
    Reason.BOX_RESTARTED: Outcome(next=Next.GO_ON, cure="The box restarted; the job goes on from its checkpoint."),
    Reason.LEASE_EXPIRED: Outcome(
        next=Next.GO_ON, cure="The box was not heard of for the length of a lease; any box may go on."
    ),
    Reason.STOPPED_BY_BOX: Outcome(next=Next.GO_ON, cure="The box stopped it after a save; it goes on from there."),
    Reason.HELD: Outcome(next=Next.GO_ON, cure="It is kept out of the queue: `pi0q release ID` lets it go on."),
    Reason.GPU_LOST: Outcome(
        next=Next.GO_ON,
        cure="The box's GPU broke down; the box takes no new jobs until it is restarted and "
        "`pi0q drain BOX --undo` was said. The job goes on as soon as a box has its checkpoint.",
        elsewhere=True,
    ),
    Reason.GPU_TAKEN: Outcome(
        next=Next.GO_ON,
        cure="Another process took the GPU's memory; the job goes on where and when there is enough of it.",
    ),
}

#: Reasons whose cure is a change of the job's file.
IN_THE_FILE = frozenset({
    Reason.SPEC_REFUSED, Reason.CUDA_OUT_OF_MEMORY, Reason.NON_FINITE_LOSS, Reason.COMPILE_FAILED, Reason.SHM_FULL,
    Reason.MEMORY_LIMIT, Reason.PLATFORM_KILLED, Reason.DATASET_MISSING, Reason.NOT_ON_HUB,
})  # fmt: skip
