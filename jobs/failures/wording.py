"""Pieces of the sentences about a trainer's end."""

from __future__ import annotations

import re
import signal

from pi0q.jobs.failures.evidence import Evidence
from pi0q.jobs.failures.raised import Raised

#: What happened and the cure, both in full sentences; an empty one leaves the usual.
Words = tuple[str, str]

#: Characters of an exception's text that are shown: of one line, and where several lines are needed.
SHOWN, SHOWN_LINES = 300, 600
#: First lines that say little without those below them.
SAYS_LITTLE = re.compile(
    r"[:\[{(]$|^Feature mismatch|^\d+ (?:validation )?errors?\b|^\d{3} (?:Client|Server) Error|occurred|"
    r"^(?:The above|Failed|Errors?)\b[^:]*\.?$|sub-exceptions?\)$"
)
#: A line that is part of a list.
LISTED = re.compile(r"^\s+\S|^[-*•]|^\(?\d+[.)]")
#: Lines of a message that say what it is about, wherever they stand in it.
TELLING = re.compile(r"size mismatch for|Missing features|Extra features")


def plain(evidence: Evidence) -> str:
    """Return the trainer's own error text, or its last output."""
    raised = evidence.raised()
    kind, text = raised.kind, raised.text
    if kind == "SystemExit" and not text.isdigit() and text:
        return f"the trainer refused its flags: {short(text)}"
    if kind and kind != "SystemExit":
        behind = telling(evidence.behind()) if not text or "occurred" in text else ""
        return f"{told(raised)}{f' ({behind})' * bool(behind)}{at(evidence)}"
    if evidence.signal:
        return f"the trainer was ended by {signal_name(evidence.signal)}{when(evidence)}"
    last = next((line.strip() for line in reversed(evidence.lines) if line.strip()), "")
    said = f" and said last: {short(last)}" if last else " without any output"
    return f"the trainer ended with exit code {evidence.exit_code}{said}"


def text_of(evidence: Evidence) -> str:
    return evidence.raised().text


def telling(causes: tuple[Raised, ...]) -> str:
    return told(causes[0]) if causes else ""


def told(raised: Raised) -> str:
    """Return an exception in one line."""
    return f"{raised.kind}: {said}" if (said := gist(raised.text)) else raised.kind


def gist(text: str) -> str:
    """Return what a message says, in one line: its first line, and those below it where that one says little."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    first, rest = lines[0].strip(), lines[1:]
    if not rest or not (SAYS_LITTLE.search(first) or LISTED.match(rest[0])):
        return short(first)
    rest.sort(key=lambda line: not TELLING.search(line))
    found = first
    for line in rest:
        more = f"{found} {short(' '.join(line.split()))}"
        if len(more) > SHOWN_LINES:
            break
        found = more
    return found


def short(text: str, limit: int = SHOWN) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


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
