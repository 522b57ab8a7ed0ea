"""Measure what compiled kernels save a sibling box: pi0 compiled in one home, carried to another, compiled there again.

    PYTHON benchmarks/compile_cache.py --out DIR                one GPU of 24 GB or more: 3 to 8 minutes
    PYTHON benchmarks/compile_cache.py --out DIR --layers 18    full depth: a cold max-autotune takes 25 minutes
    PYTHON benchmarks/compile_cache.py --out DIR --tiny         the same script rehearsed on a CPU, one narrow layer

PYTHON has pi0q[worker], LeRobot 0.6.1, transformers and pynvml. Widths, dtype and compile mode are those of pi0's own
training step; `--layers` of its 18 (and as many of the vision tower's 27) are built, so that a cold compile takes a few
minutes. Weights are random and no file is fetched. Each step is a process of its own with the caches of its home:

    cold       home A, empty
    sibling    home B, after pi0q packed A's kernels and unpacked them for B; A is out of the way meanwhile
    again      home A once more: what a restart on the same box costs

It ends at once, with the log's end, when a step fails; after `--limit` seconds a step counts as failed. What is known
is in DIR/compile_cache.json after each. If a cold max-autotune takes too long: `--layers 1`, or `--mode default`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from pi0q.jobs import compiled_kernels
from pi0q.jobs.spec import parse
from pi0q.workers.compiled import facts
from pi0q.workers.compiled.shared_directory import SharedKernels, Trust
from pi0q.workers.host import cache_paths, probe

JOB = "a" * 12


def step(args: argparse.Namespace) -> None:
    """Take two training steps in this process and print their seconds, torch's counters and whether they are finite."""
    began, layers, tiny = time.monotonic(), args.layers, args.tiny
    import torch
    import vram
    from lerobot.policies.pi0 import modeling_pi0
    from torch._dynamo.utils import counters

    device, load = "cpu" if tiny else "cuda", vram.Load(batch=args.batch)
    flags = {"dtype": "bfloat16", "compile_model": True, "compile_mode": args.mode}
    full, model_of = modeling_pi0.get_gemma_config, modeling_pi0.PaliGemmaForConditionalGenerationWithPiGemma

    def shallow(variant: str) -> Any:
        config = full(variant)
        config.depth = layers
        if tiny:
            config.width, config.mlp_dim, config.head_dim = 64, 64, 16
        return config

    def few_layers(*, config: Any) -> Any:
        config.vision_config.num_hidden_layers = min(layers, config.vision_config.num_hidden_layers)
        config.vision_config.projection_dim = config.projection_dim = config.text_config.hidden_size
        return model_of(config=config)

    torch.manual_seed(0)
    with mock.patch.multiple(
        modeling_pi0, get_gemma_config=shallow, PaliGemmaForConditionalGenerationWithPiGemma=few_layers
    ):
        policy = vram.build(vram.Model(policy="pi0", flags=flags, loads=(load,)), load, device=device, tiny=False)
    given = vram.made_batch(policy.config, load, device)
    policy.train()
    seconds, losses = [], []
    for _ in range(2):
        before = time.monotonic()
        policy.zero_grad(set_to_none=True)
        loss, _ = policy.forward(dict(given))
        loss.backward()
        losses.append(loss.item())
        if not tiny:
            torch.cuda.synchronize()
        seconds.append(round(time.monotonic() - before, 2))
    counted = {name: counters["inductor"][f"fxgraph_cache_{name}"] for name in ("hit", "miss", "bypass")}
    told = {"first_step_s": seconds[0], "second_step_s": seconds[1], "process_s": round(time.monotonic() - began, 2)}
    print(json.dumps({**told, **counted, "finite": all(map(_finite, losses)), "torch": torch.__version__}), flush=True)


def _finite(value: float) -> bool:
    return abs(value) < float("inf")


def live(args: argparse.Namespace, name: str, home: Path) -> dict[str, Any]:
    """One process that compiles with the caches of this home. Ends the script where it fails."""
    command = [sys.executable, __file__, "--step", "--mode", args.mode]
    command += ["--layers", str(args.layers), "--batch", str(args.batch)]
    env = {**os.environ, **cache_paths.kernel_caches(home)}
    with (args.out / f"{name}.log").open("w+") as log:
        try:
            done = subprocess.run(
                [*command, *(["--tiny"] if args.tiny else [])],
                env=env, stdout=subprocess.PIPE, stderr=log, text=True, timeout=args.limit, check=False,
            )  # fmt: skip
            code, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired:
            code, output = f"nothing after {args.limit:.0f} s", ""
        log.seek(0)
        if code or not output.strip():
            raise SystemExit(f"{name} failed: {code}\n{log.read()[-3000:]}")
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    print(name, json.dumps(found), flush=True)
    return found


def carry(args: argparse.Namespace, first: Path, second: Path) -> dict[str, Any]:
    """Pack the kernels of one home and unpack them for the other, as two boxes do."""
    gpus = () if args.tiny else tuple(gpu.uuid for gpu in probe.nvml_gpus()[0])[:1]
    spec = parse(
        "train: {dataset: {repo_id: l/d}, policy: {type: pi0, compile_model: true, dtype: bfloat16}}",
        filename="job.yaml",
    )
    compiled_for = facts.gather(spec, python=sys.executable, gpus=gpus, dataset=None)
    share = args.out / "share"
    share.mkdir(exist_ok=True)
    shared = SharedKernels(place=share, key=compiled_for.key, roots=(share.resolve(),))
    began = time.monotonic()
    text = shared.put(JOB, first, compiled_for.to_json(), lambda _: None)
    packed = time.monotonic()
    trust = Trust(named=frozenset({compiled_kernels.sha256(text)}))
    found = shared.fetch(second, trust, lambda _: None)
    if found is None:
        raise SystemExit(f"the kernels were not unpacked: {shared.refused}")
    return {
        "pack_s": round(packed - began, 2),
        "unpack_s": round(time.monotonic() - packed, 2),
        "files": found.files,
        "mb": round(found.bytes / 1e6, 1),
        "compiled_for": compiled_for.to_json(),
    }


def keep(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write down what is known so far."""
    (args.out / "compile_cache.json").write_text(json.dumps(result, indent=1))


def main() -> None:
    """Measure cold, sibling and again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--mode", default="max-autotune", help="policy.compile_mode")
    parser.add_argument("--limit", type=float, default=420.0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--step", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tiny:
        args.layers, args.batch, args.mode = 1, 1, "default"
    if args.step:
        return step(args)
    args.out = args.out.absolute()
    args.out.mkdir(parents=True, exist_ok=True)
    first, second = (args.out / home / "key" for home in ("home-a", "home-b"))
    for home in (first, second):
        if home.exists():
            raise SystemExit(f"{home} is there already: name a fresh --out")
        home.parent.mkdir(parents=True)
    result: dict[str, Any] = {"layers": args.layers, "batch": args.batch, "mode": args.mode, "tiny": args.tiny}
    result["cold"] = live(args, "cold", first)
    keep(args, result)
    result["carry"] = carry(args, first, second)
    print("carry", json.dumps(result["carry"]), flush=True)
    # On one machine the sibling must not find what lies in the first home.
    away = first.rename(first.with_name("away"))
    result["sibling"] = live(args, "sibling", second)
    brought = result["sibling"]["first_step_s"] + result["carry"]["unpack_s"]
    result["sibling_to_cold"] = round(brought / result["cold"]["first_step_s"], 3)
    keep(args, result)
    print(
        f"first step on the sibling, unpacking included: {result['sibling_to_cold']:.1%} of cold (goal: 20 %)",
        flush=True,
    )
    away.rename(first)
    result["again"] = live(args, "again", first)
    keep(args, result)


if __name__ == "__main__":
    main()
