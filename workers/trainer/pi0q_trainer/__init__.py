"""Run `lerobot-train` with progress events and save/stop signals: `PYTHON pi0q_trainer --dataset.repo_id=… (flags)`.

Run by the trainer's interpreter (Python >= 3.10 with LeRobot 0.4.4 to 0.6.1), so this package imports the standard
library and itself only, nothing else of pi0q. The training is LeRobot's: globals of its train script are replaced
by the methods of `Hook` that bear their names. A LeRobot laid out otherwise runs as it is (`hooked` is false).

Environment:
    PI0Q_EVENTS        file or FIFO that gets one JSON object a line; unset: no events
    PI0Q_PARENT        pid of the runner; the trainer dies with it
    PI0Q_LEASE         file of two little-endian 64-bit numbers, nanoseconds of CLOCK_BOOTTIME, that a living runner
                       moves on: past the first it is as after SIGTERM, past the second the process ends at once
    PI0Q_SAVE_EVERY_S  save also when this many seconds passed since the last save
    PI0Q_SAVE_COST_S   seconds that a save took in earlier runs: saves by the clock take 2 % of the time at most
    PI0Q_REHEARSAL     1: pi0 and pi05 shrunk to 17 M parameters, no base weights
    PI0Q_FAST_INIT     1: weights that stay random are made on the GPU too, as those that are loaded always are
    PI0Q_CARD          file for LeRobot's model card, written at the end; unset: none
    PI0Q_BEST          eval_loss: save also at each best loss on held-out episodes
    PI0Q_PATIENCE      end after so many evaluations without a better one
    PI0Q_RANKS         of several trainers of one job (RANK, WORLD_SIZE …): handles of their sockets, see ranks.py
    PI0Q_STORE         of rank 0: handle of the port at which torch's ranks meet
    PI0Q_WANDB_BEGIN_S seconds that WandB has to begin an online run (30), before the trainer restarts without
    PI0Q_WANDB_TRIES   how often it did so already
Signals:
    SIGUSR1  save at the end of this step and go on
    SIGTERM  save at the end of this step, then exit 75; at once before the first step or after the last save
    SIGUSR2  print where each thread is
Exit code: 75 interrupted; 76 loss not finite, nothing saved; 77 past the lease; 78 stopped early; 79 another rank has
ended; 1 an exception; else LeRobot's.
"""
