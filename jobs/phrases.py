"""Pieces of the sentences about a trainer's end."""

from __future__ import annotations

import re
import signal

from pi0q.jobs.evidence import Evidence, unwrapped

#: Characters of an exception's text that are shown.
SHOWN = 300


def plain(evidence: Evidence) -> str:
    """The trainer's own words, or the last that it said."""
    kind, text = unwrapped(*evidence.spoken())
    if kind == "SystemExit" and not text.isdigit() and text:
        return f"the trainer refused its flags: {short(text)}"
    if kind and kind != "SystemExit":
        behind = telling(evidence.behind()) if not text or "occurred" in text else ""
        return f"{kind}: {first_line(text) or behind}{f' ({behind})' * bool(text and behind)}{at(evidence)}"
    if evidence.signal:
        return f"the trainer was ended by {signal_name(evidence.signal)}{when(evidence)}"
    last = next((line.strip() for line in reversed(evidence.lines) if line.strip()), "")
    said = f" and said last: {short(last)}" if last else " without a word"
    return f"the trainer ended with exit code {evidence.exit_code}{said}"


def text_of(evidence: Evidence) -> str:
    return unwrapped(*evidence.spoken())[1]


def telling(causes: tuple[str, ...]) -> str:
    return short(causes[0]) if causes else ""


def first_line(text: str) -> str:
    return short(next((line.strip() for line in text.splitlines() if line.strip()), ""))


def short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def at(evidence: Evidence) -> str:
    """The same behind someone's own words."""
    return f" ({when(evidence).strip()})" if evidence.step is not None else ""


def when(evidence: Evidence) -> str:
    if evidence.step is None:
        return ""
    return f" after step {evidence.step}" if evidence.step else " before its first step"


def used(evidence: Evidence) -> str:
    memory = evidence.memory
    if not memory.limit_mib or memory.used_mib is None:
        return ""
    return f", {memory.used_mib / 1024:.1f} of {memory.limit_mib / 1024:.1f} GiB in use"


def said_last(evidence: Evidence) -> str:
    last = next((line.strip() for line in reversed(evidence.lines) if line.strip()), "")
    return f"; it said last: {short(last)}" if last else ""


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def number_in(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def innermost(lines: tuple[str, ...]) -> str:
    """Where Python stood when it crashed or hung, as faulthandler prints it: `update_policy (lerobot_train.py:97)`."""
    for index, line in enumerate(lines):
        if re.match(r"(?:Current thread|Thread) 0x\w+.*most recent call first", line):
            frames = [re.match(r'\s+File "(.+)", line (\d+) in (.+)', frame) for frame in lines[index + 1 : index + 40]]
            ours = [frame for frame in frames if frame]
            if ours and (line.startswith("Current") or index):
                return f"{ours[0][3]} ({ours[0][1].rpartition('/')[2]}:{ours[0][2]})"
    return ""


def gpu_words(evidence: Evidence) -> list[str]:
    found = []
    for gpu in evidence.gpus:
        faults = [gpu.lost] * bool(gpu.lost) + [f"Xid {', '.join(map(str, gpu.xids))}"] * bool(gpu.xids)
        faults += [f"{gpu.ecc_errors} uncorrected memory errors"] * bool(gpu.ecc_errors)
        if faults:
            found.append(f"{gpu.name or 'GPU'} {gpu.uuid}: {', '.join(faults)}")
    return found
