"""Real torch: what one home compiled is found by another home after a copy, and nothing without one.

The graph is compiled by inductor for the processor. A compile of pi0 on a GPU: benchmarks/compile_cache.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs import compiled_kernels
from pi0q.jobs.compiled_kernels import ARCHIVE
from pi0q.jobs.spec import parse
from pi0q.workers.compiled import facts
from pi0q.workers.compiled.shared_directory import SharedKernels, Trust
from pi0q.workers.host import cache_paths

STEP = """
import json, torch
from torch._dynamo.utils import counters
torch.manual_seed(0)
model = torch.compile(torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4)))
loss = model(torch.ones(8, 16)).square().mean()
loss.backward()
print(json.dumps({"loss": loss.item(), **counters["inductor"]}))
"""
JOB = "a" * 12


def step_in(home: Path) -> dict[str, Any]:
    """One compiled training step with the caches of this home: torch's own counters."""
    env = {**os.environ, **cache_paths.kernel_caches(home), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", STEP], env=env, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.real
def test_second_home_finds_each_graph_that_the_first_compiled(tmp_path: Path) -> None:
    share, first, second = tmp_path / "share", tmp_path / "a" / "key", tmp_path / "b" / "key"
    share.mkdir()
    second.parent.mkdir()
    spec = parse("train: {dataset: {repo_id: l/d}, policy: {type: act, device: cpu}}", filename="job.yaml")
    compiled_for = facts.gather(spec, python=sys.executable, gpus=(), dataset=None)
    shared = SharedKernels(place=share, key=compiled_for.key)
    cold = step_in(first)
    assert cold["fxgraph_cache_miss"] > 0 and "fxgraph_cache_hit" not in cold
    text = shared.put(JOB, first, compiled_for.to_json(), lambda _: None)
    trust = Trust(named=frozenset({compiled_kernels.sha256(text)}))
    path = share / "compile" / compiled_for.key / JOB / ARCHIVE
    whole = path.read_bytes()
    path.write_bytes(whole[:-2000] + b"!" + whole[-1999:])
    assert shared.fetch(second, trust, lambda _: None) is None and not second.exists()
    path.write_bytes(whole)
    assert shared.fetch(second, trust, lambda _: None)
    warm = step_in(second)
    assert warm["fxgraph_cache_hit"] == cold["fxgraph_cache_miss"] and "fxgraph_cache_miss" not in warm
    assert warm["loss"] == cold["loss"]
