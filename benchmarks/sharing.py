"""Measure what it costs when two trainings share one GPU: their speed together against one after the other.

    PYTHON benchmarks/sharing.py --out DIR          one GPU of 140 GB: about 6 minutes
    PYTHON benchmarks/sharing.py --out DIR --tiny   the same script rehearsed on a CPU, models shrunk

PYTHON is that of benchmarks/vram.py, whose models and batches are trained here by LeRobot's own step. Each training is
a process of its own, as under pi0q. `speed-up` is (time of A alone + time of B alone) / time of both together, for the
same steps: over 1, sharing gets the same work done sooner; under 1, one after the other would have been sooner.
Data loading is left out: the batches lie on the card.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

#: Steps before the clock starts: kernels are chosen and memory is taken in the first ones.
WARM_UP = 5
#: Pairs of (policy, batch, steps); the steps are chosen so that each of a pair takes about as long.
PAIRS = (
    (("act", 8, 400), ("act", 8, 400)),
    (("act", 32, 200), ("act", 32, 200)),
    (("smolvla", 32, 120), ("smolvla", 32, 120)),
    (("diffusion", 32, 150), ("diffusion", 32, 150)),
    (("pi0", 8, 60), ("pi0", 8, 60)),
    (("act", 8, 400), ("pi0", 8, 60)),
)


def train(policy_name: str, batch: int, steps: int, *, tiny: bool) -> None:
    """Train in this process: say `ready`, wait for a line, train, say the seconds."""
    import torch
    import vram
    from lerobot.scripts.lerobot_train import update_policy
    from lerobot.utils.logging_utils import AverageMeter, MetricsTracker

    device, load = "cpu" if tiny else "cuda", vram.Load(batch=batch)
    flags = {"dtype": "bfloat16"} if policy_name.startswith("pi0") else {}
    model = vram.Model(policy=policy_name, flags=flags, loads=(load,))
    policy = vram.build(model, load, device=device, tiny=tiny)
    accelerator = vram.accelerator_for(policy.config, device)
    preset = policy.config.get_optimizer_preset()
    optimizer = preset.build(policy.get_optim_params())
    given = vram.made_batch(policy.config, load, device)
    meters = {name: AverageMeter(name) for name in ("loss", "grad_norm", "lr", "update_s", "gpu_mem_gb")}
    metrics = MetricsTracker(batch, 1000, 10, meters)

    def step() -> None:
        update_policy(metrics, policy, dict(given), optimizer, preset.grad_clip_norm, accelerator)

    for _ in range(WARM_UP):
        step()
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.monotonic()
    for _ in range(steps):
        step()
    if not tiny:
        torch.cuda.synchronize()
    print(f"seconds {time.monotonic() - started}", flush=True)


def together(*loads: tuple[str, int, int], tiny: bool) -> tuple[float, list[float]]:
    """Train these at once, started together once all are warm; return the seconds until the last ended, and each's."""
    children = [
        subprocess.Popen(
            [sys.executable, __file__, "--train", *map(str, load), *(["--tiny"] if tiny else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for load in loads
    ]  # fmt: skip
    for child in children:
        assert child.stdout
        if not any(line.startswith("ready") for line in child.stdout):
            raise SystemExit("a training did not start")
    started = time.monotonic()
    for child in children:
        assert child.stdin
        child.stdin.write("\n")
        child.stdin.flush()
    outputs = [child.communicate()[0] for child in children]
    ended = time.monotonic() - started
    return ended, [float(output.rpartition("seconds ")[2]) for output in outputs]


def main() -> None:
    """Measure all pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        return train(args.train[0], int(args.train[1]), int(args.train[2]), tiny=args.tiny)
    args.out.mkdir(parents=True, exist_ok=True)
    pairs = ((("act", 1, 2), ("smolvla", 1, 2)),) if args.tiny else PAIRS
    alone: dict[tuple[str, int, int], float] = {}
    with (args.out / "sharing.jsonl").open("a") as out:
        for pair in pairs:
            for load in pair:
                if load not in alone:
                    alone[load] = together(load, tiny=args.tiny)[1][0]
            whole, each = together(*pair, tiny=args.tiny)
            case = {"pair": pair, "alone": [alone[load] for load in pair], "together": each,
                    "speed_up": sum(alone[load] for load in pair) / max(each), "whole": whole}  # fmt: skip
            print(json.dumps(case), flush=True)
            out.write(json.dumps(case) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
