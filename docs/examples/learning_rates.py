"""Submit one training with three learning rates, wait for all, and print which came furthest."""

from __future__ import annotations

import sys

from pi0q.queue import client

RATES = (1e-5, 3e-5, 1e-4)


def main(file: str) -> None:
    """Train `file` once for each of RATES."""
    jobs = {
        rate: client.submit(file, overrides={"name": f"rate_{rate:g}", "train.policy.optimizer_lr": rate})
        for rate in RATES
    }
    for rate, job in jobs.items():
        end = job.wait(check=False)
        curve = job.curve()
        loss = curve[-1].loss if curve else None
        saved = job.checkpoints()
        print(f"{rate:g}: {end.state}, loss {loss}, last checkpoint at step {saved[0].step if saved else 0}")
        if not curve:
            print(job.logs()[-500:])


if __name__ == "__main__":
    main(sys.argv[1])
