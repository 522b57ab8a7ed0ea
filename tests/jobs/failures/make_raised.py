"""Makes the corpus of exceptions: real ones of the trainer's libraries, at local sockets and in local directories.

    python -m tests.jobs.failures.make_raised [CASE…]      all cases, or some; `--list` names them

Each case runs in a process of its own and ends as a trainer does: the traceback in the log, the exception as the hook
describes it. It takes a second or ten a case.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from tests.jobs.failures.raised_cases import CASES, Case, Ground

CORPUS = Path(__file__).with_name("corpus")
LIMIT_SECONDS = 180
#: Characters of a log that are kept of its beginning and its end.
KEPT = 300, 2600


def raised_in(name: str) -> None:
    """Run one case in this process and print what the hook would have sent, then the traceback."""
    from pi0q.workers.trainer.pi0q_trainer import checks

    with tempfile.TemporaryDirectory(prefix="pi0q-raised-") as place:
        ground = Ground(Path(place))
        try:
            CASES[name].run(ground)
        except Exception as error:
            causes = [checks.describe(cause) for cause in checks.causes(error)]
            head = {"error": checks.describe(error)} | ({"causes": causes} if causes else {})
            text = renamed(f"{json.dumps(head)}\n{traceback.format_exc()}", place, ground)
            print(f"\nRAISED {text}", flush=True)
            os._exit(0)
    print("nothing was raised", flush=True)
    os._exit(3)


def renamed(text: str, place: str, ground: Ground) -> str:
    """The same with the places of a box instead of those of this machine."""
    text = text.replace(place, "/data/pi0q").replace(sys.prefix, "/opt/trainer").replace(sys.base_prefix, "/opt/python")
    text = text.replace(str(Path(__file__).parents[3]), "/opt/pi0q")
    for port in ground.ports:
        text = text.replace(str(port), "8080")
    return re.sub(r"0x[0-9a-f]{6,}", "0x7f00", text)


def write(name: str, case: Case, told: dict[str, Any], log: str) -> None:
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in case.packages)
    head = {
        "reason": case.reason, "lerobot": importlib.metadata.version("lerobot"),
        "source": f"a real exception of {versions}: {case.done}", "exit": 1, **told, "step": 0,
    }  # fmt: skip
    if case.argv:
        head["argv"] = case.argv
    if case.says:
        head["says"] = list(case.says)
    lines = [f"# {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    first, last = KEPT
    if len(log) > first + last:
        log = log[:first] + "\n[…]\n" + log[-last:]
    (CORPUS / f"raised_{name}.log").write_text("\n".join([*lines, "", log.strip(), ""]), encoding="utf-8")


def make(name: str, case: Case) -> None:
    env = {
        **os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "",
        "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    for variable in ("HF_HUB_OFFLINE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        env.pop(variable, None)
    command = [sys.executable, "-m", "tests.jobs.failures.make_raised", "--case", name]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    told, _, log = done.stdout.rpartition("\nRAISED ")[2].partition("\n")
    if done.returncode:
        print(f"{name}: {done.stdout[-300:]} {done.stderr[-600:]}")
        return
    write(name, case, json.loads(told), log)
    print(f"{name}: {told[:160]}", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--case"]:
        raised_in(sys.argv[2])
    if "--list" in sys.argv:
        print(*CASES)
        return
    for name, case in CASES.items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            make(name, case)


if __name__ == "__main__":
    main()
