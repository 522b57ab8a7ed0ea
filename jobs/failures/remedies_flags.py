"""What LeRobot refuses of a job's file, and the lines of the file that cure it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pi0q.jobs.failures.evidence import Evidence
from pi0q.jobs.failures.wording import Words, short, text_of

#: Part of a parameter's name -> the flag that gives it its size.
SIZED_BY: tuple[tuple[str, str], ...] = (
    (r"action_(?:in|out)_proj|action_proj", "policy.max_action_dim"),
    (r"state_proj", "policy.max_state_dim"),
    (r"decoder_pos_embed|query_embed|action_pos", "policy.chunk_size"),
)
#: Names of cameras that are shown of each side.
CAMERAS = 6
_SHAPES = re.compile(
    r"size mismatch for (?P<name>[\w.]+): copying a param with shape torch\.Size\(\[(?P<weights>[\d, ]*)\]\) from "
    r"checkpoint, the shape in current model is torch\.Size\(\[(?P<file>[\d, ]*)\]\)"
)


def refused(evidence: Evidence) -> Words:
    """Name the flag, and where the message has the values of both sides, the line of the file."""
    text = text_of(evidence)
    if "Feature mismatch" in text:
        return "", _other_names(text)
    if sizes := _SHAPES.search(text):
        return "", _other_sizes(sizes)
    if "in loading state_dict" in text:
        return "", (
            "The weights are of another architecture than the file's policy: give the policy.* values of the weights' "
            "own config.json, or another policy.pretrained_path."
        )
    if evidence.raised().kind == "HFValidationError":
        named = re.search(r"'(/[^']+)'", text)
        what = f"The path {short(named[1])}" if named else "What the file names"
        return "", f"{what} is neither a directory on this box nor the name of a repository: check it in the file."
    flag = re.search(r"unrecognized arguments: (.+)|argument --(\S+?):|`([\w.]+)`", text)
    name = next((part for part in flag.groups() if part), "") if flag else ""
    at = f" (it is about {short(name)})" if name else ""
    return "", f"LeRobot {evidence.lerobot} refuses this job's flags{at}: fix the file and retry."


def _other_names(text: str) -> str:
    """Features of the policy that the dataset lacks, and those of the dataset that the policy does not know."""
    wanted, given = _names(text, "Missing features"), _names(text, "Extra features")
    pairs = [f"{have}: {want}" for have, want in zip(given, wanted, strict=False)][:CAMERAS]
    left = wanted[len(given) : len(given) + CAMERAS]
    if not pairs:
        return (
            f"The policy wants {', '.join(wanted[:CAMERAS]) or 'other features'}, which the dataset does not have: use "
            "its own name in rename_map, policy.empty_cameras for a camera that is not there, or other weights."
        )
    more = f" The dataset has nothing for {', '.join(left)}: policy.empty_cameras: {len(left)}." if left else ""
    return (
        f"In the file, the dataset's name to the policy's: rename_map: {{{', '.join(pairs)}}} (check which camera is "
        f"which).{more}"
    )


def _names(text: str, side: str) -> Sequence[str]:
    found = re.search(rf"{side}: [\[{{](.*?)[\]}}]", text, re.DOTALL)
    return re.findall(r"['\"]([\w.\-/]+)['\"]", found[1]) if found else []


def _other_sizes(sizes: re.Match[str]) -> str:
    """The flag behind a parameter whose size differs between the weights and the file."""
    weights, own = (shape.replace(" ", "").split(",") for shape in (sizes["weights"], sizes["file"]))
    differing = [(a, b) for a, b in zip(weights, own, strict=False) if a != b]
    flag = next((flag for part, flag in SIZED_BY if re.search(part, sizes["name"])), "")
    if flag and len(differing) == 1 and len(weights) == len(own):
        have, want = differing[0]
        return (
            f"In the file: {flag}: {have}, which the weights have (it is {want}); or weights of that size "
            "(policy.pretrained_path)."
        )
    theirs, ours = sizes["weights"], sizes["file"]
    return (
        f"The parameter {sizes['name']} is [{theirs}] in the weights and [{ours}] by the file: give the policy.* sizes "
        "of the weights' own config.json (max_action_dim, max_state_dim, chunk_size), or other weights."
    )
