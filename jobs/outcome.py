"""How a run can end, what follows from it, and what its user reads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: Attempts in a row without a new checkpoint before a failure that might pass by itself ends a job.
MAX_ATTEMPTS = 3
#: Interruptions in a row without a new checkpoint before the job is taken for the cause of them.
MAX_RUNS_WITHOUT_CHECKPOINT = 8

#: The longest that a job rests before it is tried again, whoever asked for longer.
MAX_REST_SECONDS = 1800.0

#: Exit codes of the trainer hook (workers/trainer/pi0q_trainer); 75 is EX_TEMPFAIL of sysexits.h.
EXIT_SAVED_AND_STOPPED = 75
EXIT_NON_FINITE = 76
EXIT_LEASE_OVER = 77
EXIT_EARLY_STOP = 78


class Reason(str, Enum):
    """Why a job is where it is, when that needs a reason."""

    FINISHED = "finished"
    #: No better loss on held-out episodes for as long as the file allows.
    EARLY_STOP = "early_stop"
    CANCELLED_BY_USER = "cancelled_by_user"
    # Only the user can fix it: never retried automatically.
    SPEC_REFUSED = "spec_refused"
    NEEDS_ACCESS = "needs_access"
    NOT_ON_HUB = "not_on_hub"
    CUDA_OUT_OF_MEMORY = "cuda_out_of_memory"
    NON_FINITE_LOSS = "non_finite_loss"
    TRAINER_BROKEN = "trainer_broken"
    REHEARSAL_FAILED = "rehearsal_failed"
    CRASH_LOOP = "crash_loop"
    TIME_LIMIT = "time_limit"
    WANDB_REFUSED = "wandb_refused"
    DATASET_MISSING = "dataset_missing"
    DATASET_FORMAT = "dataset_format"
    DATASET_DAMAGED = "dataset_damaged"
    WEIGHTS_DAMAGED = "weights_damaged"
    UNSAFE_WEIGHTS = "unsafe_weights"
    NOT_TRUSTED = "not_trusted"
    COMPILE_FAILED = "compile_failed"
    SHM_FULL = "shm_full"
    # May be transient: retried, `Outcome.attempts` in all.
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
    # Transient: retried after a pause, as often as it takes.
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
    #: It waits for other jobs to end, for its start time, for a job that ended without what it needs of it.
    AFTER_JOB = "after_job"
    AFTER_TIME = "after_time"
    AFTER_FAILED = "after_failed"
    #: It stands for the trials of a sweep; it waits for its turn in one.
    SWEEP = "sweep"
    SWEEP_TURN = "sweep_turn"
    GPU_LOST = "gpu_lost"
    GPU_TAKEN = "gpu_taken"

    def __str__(self) -> str:
        return self.value


class Next(str, Enum):
    """What pi0q does after a run that ended for some reason."""

    DONE = "done"
    FAIL = "fail"
    RETRY = "retry"
    REQUEUE = "requeue"
    RETRY_LATER = "retry_later"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What follows from a reason."""

    next: Next
    #: One sentence for the user: what it means and what cures it; `{id}` stands for the id of the job.
    fix: str
    #: Seconds in the queue before the next try; twice that the next time, MAX_REST_SECONDS at most.
    rest_seconds: float = 0.0
    #: It says something of the box: another one is let in first, where none of its steps are lost by that.
    elsewhere: bool = False
    #: Attempts in a row without a new checkpoint before this reason, where it may pass by itself, ends a job.
    attempts: int = MAX_ATTEMPTS


OUTCOMES: dict[Reason, Outcome] = {
    Reason.FINISHED: Outcome(next=Next.DONE, fix="The training reached its last step."),
    Reason.EARLY_STOP: Outcome(
        next=Next.DONE,
        fix="Its loss on held-out episodes became no better for as many evaluations as checkpoints.patience allows.",
    ),
    Reason.CANCELLED_BY_USER: Outcome(next=Next.DONE, fix="Someone cancelled it."),
    Reason.SPEC_REFUSED: Outcome(next=Next.FAIL, fix="The trainer refuses these flags: fix the file and retry."),
    Reason.NEEDS_ACCESS: Outcome(
        next=Next.FAIL,
        fix="The Hub does not let this box in: run `hf auth login` on the box, accept the repository's terms on its "
        "page with that account, then try again.",
    ),
    Reason.NOT_ON_HUB: Outcome(
        next=Next.FAIL, fix="The Hub has no such repository or revision: check the name in the file."
    ),
    Reason.CUDA_OUT_OF_MEMORY: Outcome(
        next=Next.FAIL,
        fix="The GPU's memory did not suffice: lower batch_size, set policy.gradient_checkpointing: true, "
        "or ask for more with resources.vram.",
    ),
    Reason.NON_FINITE_LOSS: Outcome(
        next=Next.FAIL,
        fix="The loss became NaN or infinite; the last good checkpoint is kept: lower the learning rate "
        "or look at the data.",
    ),
    Reason.TRAINER_BROKEN: Outcome(
        next=Next.FAIL,
        fix="LeRobot can't run in the box's trainer environment: see the log, then repair that environment.",
    ),
    Reason.REHEARSAL_FAILED: Outcome(
        next=Next.FAIL,
        fix="The rehearsal before the long run failed, as the run would have: see the log. "
        "`preflight: {rehearse: never}` in the file does without one.",
    ),
    Reason.CRASH_LOOP: Outcome(
        next=Next.FAIL,
        fix=f"{MAX_RUNS_WITHOUT_CHECKPOINT} runs in a row died without a new checkpoint: see the log.",
    ),
    Reason.TIME_LIMIT: Outcome(
        next=Next.FAIL,
        fix="It trained for as long as time_limit in its file allows, saved and stopped: write a larger one to go on.",
    ),
    Reason.WANDB_REFUSED: Outcome(
        next=Next.FAIL,
        fix="WandB refuses this box: run `wandb login` there, or set `wandb: {enable: false}` in the file, "
        "then try again.",
    ),
    Reason.DATASET_MISSING: Outcome(
        next=Next.FAIL,
        fix="The dataset is not where the file says: check dataset.repo_id and dataset.root (looked for below "
        "PI0Q_DATASET_ROOTS on the box), then try again.",
    ),
    Reason.DATASET_FORMAT: Outcome(
        next=Next.FAIL,
        fix="The dataset's format is not that of the box's LeRobot: convert the dataset, or use the LeRobot that "
        "wrote it, then try again.",
    ),
    Reason.DATASET_DAMAGED: Outcome(
        next=Next.FAIL,
        fix="A file of the dataset can't be read: if it came from the Hub, `pi0q cache rm REPOSITORY` on the box and "
        "try again; if it is wrong there too, it must be recorded or uploaded anew.",
    ),
    Reason.WEIGHTS_DAMAGED: Outcome(
        next=Next.FAIL,
        fix="The weights it starts from can't be read: `pi0q cache rm REPOSITORY` on the box, then try again.",
    ),
    Reason.UNSAFE_WEIGHTS: Outcome(
        next=Next.FAIL,
        fix="Its weights, checkpoint or tokenizer would run code on the box, so no trainer was started on them: name "
        "weights whose processor files hold LeRobot's own steps alone. Code that somebody has read may run once its "
        "hash stands in the file that the box's PI0Q_ALLOW_CODE names.",
    ),
    Reason.NOT_TRUSTED: Outcome(
        next=Next.FAIL,
        fix="Its box demands signatures (docs/security.md). Its job file: `pi0q retry {id}` signs it anew. A "
        "checkpoint that you know is good and no box signed: PI0Q_UNSIGNED_CHECKPOINTS=allow on the box, then retry.",
    ),
    Reason.COMPILE_FAILED: Outcome(
        next=Next.FAIL,
        fix="This model can't be compiled on this GPU: set policy.compile_model: false and try again.",
    ),
    Reason.SHM_FULL: Outcome(
        next=Next.FAIL,
        fix="The data loaders ran out of shared memory: set num_workers: 0 in the file, or start the container with "
        "more of it (--shm-size=16g).",
    ),
    Reason.TRAINER_FAILED: Outcome(
        next=Next.RETRY, fix="The trainer ended with an error: see the last lines of its log."
    ),
    Reason.TRAINER_KILLED: Outcome(
        next=Next.RETRY,
        fix="Something on the box killed the trainer (a person, the platform); it is tried again.",
    ),
    Reason.MEMORY_LIMIT: Outcome(
        next=Next.RETRY,
        fix="The box's memory (not the GPU's) did not suffice: lower num_workers or batch_size, or use a larger box.",
        attempts=2,
    ),
    Reason.PLATFORM_KILLED: Outcome(
        next=Next.RETRY,
        fix="The platform killed the trainer while the box's memory was nearly full: lower num_workers or batch_size, "
        "or use a larger box.",
        attempts=2,
    ),
    Reason.TRAINER_CRASHED: Outcome(
        next=Next.RETRY,
        fix="A library under the trainer crashed; if it happens again, repair the box's trainer environment: "
        "`pi0q doctor` on the box.",
        attempts=2,
        elsewhere=True,
    ),
    Reason.CUDA_ERROR: Outcome(
        next=Next.RETRY,
        fix="The GPU refused a computation; twice in the same place is the model's or the data's doing, elsewhere the "
        "card's or the driver's.",
        attempts=2,
        elsewhere=True,
    ),
    Reason.NO_CUDA: Outcome(
        next=Next.RETRY,
        fix="The trainer can't use the box's GPU: `pi0q doctor` on the box says what driver and torch lack.",
        attempts=2,
        elsewhere=True,
    ),
    Reason.NCCL: Outcome(
        next=Next.RETRY,
        fix="The GPUs lost each other: look for the first rank that failed in the log, and at `nvidia-smi topo -m`.",
    ),
    Reason.NOT_CACHED: Outcome(
        next=Next.RETRY,
        fix="The trainer wanted something that is not in the box's cache, where alone it looks; it is fetched again "
        "for the next try.",
        attempts=2,
    ),
    Reason.DISK_BROKEN: Outcome(
        next=Next.RETRY,
        fix="The box's disk fails (read-only, I/O error, a share that went away): look at it, or restart the box.",
        attempts=2,
        elsewhere=True,
    ),
    Reason.NETWORK: Outcome(
        next=Next.RETRY_LATER,
        fix="What it needs could not be fetched from the Hub; it is tried again by itself and no attempt is used up.",
        rest_seconds=60.0,
    ),
    Reason.DISK_FULL: Outcome(
        next=Next.RETRY_LATER,
        fix="A disk of the box filled up; the last good checkpoint is kept and no attempt is used up. It goes on by "
        "itself where there is room: `pi0q why {id}` says how much, `pi0q cache ls` on the box what fills it.",
    ),
    Reason.DISK_LOW: Outcome(
        next=Next.RETRY_LATER,
        fix="The box's data disk ran low, so it stopped in time; no attempt is used up. It goes on by itself where "
        "there is room: `pi0q why {id}` says how much, `pi0q cache ls` on the box what fills it.",
    ),
    Reason.HUNG: Outcome(
        next=Next.RETRY,
        fix="The trainer did no step for too long and was ended; its log shows where each of its threads stood.",
        attempts=2,
    ),
    Reason.RUNNER_LOST: Outcome(next=Next.REQUEUE, fix="The runner died; the job goes on from its checkpoint."),
    Reason.BOX_RESTARTED: Outcome(next=Next.REQUEUE, fix="The box restarted; the job goes on from its checkpoint."),
    Reason.LEASE_EXPIRED: Outcome(
        next=Next.REQUEUE, fix="The box reported nothing for the length of a lease; any box may continue the job."
    ),
    Reason.STOPPED_BY_BOX: Outcome(next=Next.REQUEUE, fix="The box stopped it after a save; it goes on from there."),
    Reason.HELD: Outcome(next=Next.REQUEUE, fix="It is kept out of the queue: `pi0q release {id}` lets it go on."),
    Reason.AFTER_JOB: Outcome(
        next=Next.REQUEUE, fix="It starts by itself after that; `pi0q release {id}` queues it without waiting."
    ),
    Reason.AFTER_TIME: Outcome(
        next=Next.REQUEUE, fix="It starts by itself at that time; `pi0q release {id}` queues it now."
    ),
    Reason.AFTER_FAILED: Outcome(
        next=Next.REQUEUE,
        fix="`pi0q retry` of that job takes its place: after a success of it this one starts by itself. "
        "`pi0q release {id}` queues it without that, `pi0q cancel {id}` ends it.",
    ),
    Reason.SWEEP: Outcome(
        next=Next.REQUEUE, fix="`pi0q ls --children` shows its trials; cancel, hold and release act on all of them."
    ),
    Reason.SWEEP_TURN: Outcome(next=Next.REQUEUE, fix="It starts by itself once another trial of its sweep ends."),
    Reason.GPU_LOST: Outcome(
        next=Next.REQUEUE,
        fix="The box's GPU broke down; the box takes no new jobs until it is restarted and "
        "its drain ended (`pi0q drain BOX --undo`). The job goes on as soon as a box has its checkpoint.",
        elsewhere=True,
    ),
    Reason.GPU_TAKEN: Outcome(
        next=Next.REQUEUE,
        fix="Another process took the GPU's memory; the job goes on where and when there is enough of it.",
    ),
}

#: Reasons of a training that came to its end.
COMPLETE = frozenset({Reason.FINISHED, Reason.EARLY_STOP})

#: Reasons of jobs that wait though nobody holds them.
NOT_HELD = frozenset({
    Reason.AFTER_JOB, Reason.AFTER_TIME, Reason.AFTER_FAILED, Reason.SWEEP, Reason.SWEEP_TURN,
})  # fmt: skip
#: Reasons whose cure is a change of the job's file.
IN_THE_FILE = frozenset({
    Reason.SPEC_REFUSED, Reason.CUDA_OUT_OF_MEMORY, Reason.NON_FINITE_LOSS, Reason.COMPILE_FAILED, Reason.SHM_FULL,
    Reason.MEMORY_LIMIT, Reason.PLATFORM_KILLED, Reason.DATASET_MISSING, Reason.NOT_ON_HUB, Reason.UNSAFE_WEIGHTS,
    Reason.TIME_LIMIT,
})  # fmt: skip
