"""What a dataset lacks, and what cures it."""

from __future__ import annotations

import re

from pi0q.jobs.failures.evidence import Evidence
from pi0q.jobs.failures.wording import Words, plain, text_of, when

#: A timestamp off by less than this, in seconds, is rounding and no other frame: half a frame at 50 a second.
ROUNDING_SECONDS = 0.01
_NUMBER = r"(\d+\.?\d*(?:e[-+]?\d+)?)"


def old_format(evidence: Evidence) -> Words:
    """Say which format the dataset has, and the command that converts it."""
    text, repo = text_of(evidence), evidence.train.get("dataset.repo_id", "the dataset")
    kind = evidence.raised().kind
    newer = "ForwardCompatibility" in kind or "newer" in text or "9.9" in text
    found = re.search(r"\b(?:is )?in v?(\d\.\d) format|v(\d\.\d)", text)
    version = next((part for part in found.groups() if part), "") if found else ""
    if newer and not text.startswith("Your dataset must"):
        return f"{repo} was written by a newer LeRobot than {evidence.lerobot}{when(evidence)}", \
               "Use a box with a newer LeRobot (`pi0q boxes` shows them)."  # fmt: skip
    if "tagged" in text:
        return f"{repo} has no version tag on the Hub, so LeRobot does not read it", (
            f"Tag it once: python -c \"from huggingface_hub import HfApi; HfApi().create_tag('{repo}', tag='v3.0', "
            "repo_type='dataset')\"; then try again."
        )
    converter = f"python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id={repo}"
    if version == "2.0" or "NotImplementedError" in kind:
        return f"{repo} has the old format v2.0, LeRobot {evidence.lerobot} reads v3.0", (
            "Convert it in two steps: with LeRobot 0.3.3, `python -m "
            "lerobot.datasets.v21.convert_dataset_v20_to_v21 --repo-id=" + f"{repo}`; then `{converter}`."
        )
    return f"{repo} has the old format v{version or '2.1'}, LeRobot {evidence.lerobot} reads v3.0", (
        f"Convert it once: `{converter}` (the box's trainer environment has it), then try again."
    )


def missing(evidence: Evidence) -> Words:
    """Say what of a dataset in a directory LeRobot looked for."""
    repo, root = evidence.train.get("dataset.repo_id", "the dataset"), evidence.train.get("dataset.root")
    if not root:
        return "", ""
    told = f"{repo} is not whole in {root}: LeRobot wanted to fetch the rest ({plain(evidence)})"
    return told, "See that dataset.root names the right directory and that it has meta/, data/ and videos/, and that " \
                 "dataset.episodes are among its episodes; then try again."  # fmt: skip


def damaged_weights(evidence: Evidence) -> Words:
    """Say what cures weights that lie in a directory of the user's."""
    named = (
        evidence.train.get(f"{section}.{key}")
        for section in ("policy", "reward_model")
        for key in ("path", "pretrained_path")
    )
    path = next((str(one) for one in named if str(one or "").startswith("/")), "")
    if not path or from_hub(path):
        return "", ""
    return "", (
        f"The weights in {path} can't be read: if its files are Git LFS pointers (a few lines of text), `git lfs pull` "
        "in that directory; else copy it there once more, then try again."
    )


def from_hub(path: object) -> bool:
    """Return whether a path is that of a snapshot in the Hub's cache, which pi0q filled itself."""
    return "/snapshots/" in str(path)


def damaged(evidence: Evidence) -> Words:
    """Say which file can't be read, and what cures it where it lies."""
    text, root = text_of(evidence), evidence.train.get("dataset.root")
    if "violate the tolerance" in text:
        return _off(evidence, text)
    if not root or from_hub(root):
        return "", ""
    return "", (
        f"A file of the dataset in {root} can't be read. Copy it there once more from where it was recorded (if it "
        "holds Git LFS pointers: `git lfs pull` in that directory); if it is wrong there too, record it anew."
    )


def _off(evidence: Evidence, text: str) -> Words:
    """Timestamps of the table that no frame of the video has."""
    off = [float(one) for one in re.findall(_NUMBER, _between(text, "violate the tolerance (tensor(", ">"))]
    video = re.search(r"video: (\S+)", text)
    asked = re.findall(_NUMBER, _between(text, "queried timestamps: tensor(", ")"))
    held = re.findall(_NUMBER, _between(text, "loaded timestamps: tensor(", ")"))
    if not off:
        return "", ""
    where = f" of {video[1]}" if video else ""
    told = f"timestamps{where} are off by {max(off):g} s{when(evidence)}"
    tolerance = evidence.train.get("tolerance_s", 1e-4)
    if max(off) < ROUNDING_SECONDS:
        return told, (
            f"That is less than a frame. In the file: tolerance_s: {_above(max(off)):g} (is {float(tolerance):g})."
        )
    pair = (
        f": the table asks for {asked[0]} s, the nearest frame is at {_nearest(asked[0], held)} s"
        if asked and held
        else ""
    )
    return told + pair, (
        "That is a frame or more, so frames are missing, or the table and the video are not of one recording. Record "
        f"or convert that video anew, or leave its episode out with dataset.episodes. A larger tolerance_s (is "
        f"{float(tolerance):g}) would train on the wrong frame."
    )


def _nearest(asked: str, held: list[str]) -> str:
    return min(held, key=lambda one: abs(float(one) - float(asked)))


def _between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]


def _above(seconds: float) -> float:
    """Return the next of 1, 2, 5 times a power of ten."""
    power = 1e-6
    while True:
        for one in (1, 2, 5):
            if one * power > seconds:
                return one * power
        power *= 10
