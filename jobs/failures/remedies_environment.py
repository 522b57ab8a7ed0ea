"""What the box's trainer environment lacks, and the command that repairs it."""

from __future__ import annotations

import re

from pi0q.jobs.failures.evidence import Evidence
from pi0q.jobs.failures.signs import EXTENSION, NO_COMPILER
from pi0q.jobs.failures.wording import Words, text_of

#: Packages that a message may name for `pip install`: names alone, never an option, an address or a file.
_PIP = re.compile(r"pip install (?:-U |--upgrade )?[`'\"]?((?:[A-Za-z][\w.-]*(?:\[[\w,-]+\])?[ ,]*){1,4})")
_MODULE = re.compile(r"No module named '([\w.]+)'")
#: Module -> the package that has it, where they differ.
PACKAGES = {
    "cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml", "google.protobuf": "protobuf",
    "google": "protobuf", "flash_attn": "flash-attn", "qwen_vl_utils": "qwen-vl-utils", "skimage": "scikit-image",
    "sklearn": "scikit-learn", "pkg_resources": "setuptools",
}  # fmt: skip
#: Words -> the packages that they mean.
MEANT: tuple[tuple[str, str], ...] = (
    (r"(?i)need to have sentencepiece|requires the SentencePiece library", "sentencepiece"),
    (r"(?i)requires the protobuf library", "protobuf"),
    (r"(?i)need to have tiktoken|requires the tiktoken", "tiktoken"),
    (r"(?i)FlashAttention|flash_attn", "flash-attn"),
    (r"(?i)requires (?:the )?`?Accelerate", "accelerate"),
)


def broken(evidence: Evidence) -> Words:
    """Name the command that installs what is missing."""
    text = " ".join([text_of(evidence), *(cause.text for cause in evidence.behind())])
    if re.search(r"libtorchcodec|libavutil|FFmpeg", text):
        return "", (
            "Videos can't be decoded there: install FFmpeg (`conda install -c conda-forge 'ffmpeg>=6,<8'`, or by apt) "
            "and the torchcodec of the box's torch; `pi0q doctor` on the box tries it."
        )
    lines = "\n".join([text, *evidence.lines])
    if re.search(NO_COMPILER, text):
        return _no_compiler(lines)
    if re.search(EXTENSION, text):
        return "", (
            "A CUDA extension can't be built on this box: its CUDA toolkit (nvcc), gcc and torch's CUDA must be of one "
            "version (`nvcc --version`, `python -c 'import torch; print(torch.version.cuda)'`); install the one that "
            "differs, or a ready-made wheel of the package. The log has the compiler's own words."
        )
    if (found := _MODULE.search(text)) and found[1].split(".")[0] == "lerobot":
        return "", (
            f"Another `lerobot` is imported than the installed one, or it is incomplete ({found[1]} is missing): look "
            "at PYTHONPATH where the worker is started (`pi0q doctor` on the box says where lerobot comes from), take "
            "it out and restart the worker."
        )
    # What is lacking at the bottom of it comes first.
    chain = [text_of(evidence), *(cause.text for cause in evidence.behind())]
    if package := next(filter(None, map(_missing, reversed(chain))), ""):
        return "", (
            f"The box's trainer environment lacks {package}: `pip install {package}` there (with the Python that "
            "`pi0q doctor` on the box names), then try again."
        )
    if "transformer" in text or any("CONFIG_MAPPING[" in line for line in evidence.lines):
        return "", (
            "LeRobot wants another transformers for this policy: 0.6.1 wants 5.4 to 5.5 "
            "(`pip install 'lerobot[pi]==0.6.1'` in the box's trainer environment), 0.4 its patched one. "
            "Then try again."
        )
    return "", ""


def _no_compiler(text: str) -> Words:
    why = "policy.compile_model needs a C compiler while the training starts; or policy.compile_model: false."
    if "Python.h" in text or "cannot find -lpython" in text:
        return "", f"On the box: `apt-get install -y python3-dev gcc`, then try again. {why}"
    if re.search(r"libcuda\.so cannot|cannot find -lcuda", text):
        return (
            "",
            f"On the box: `ldconfig` (as root), so that the driver's libcuda.so.1 is found; then try again. {why}",
        )
    packages = "gcc g++" if re.search(r"C\+\+|g\+\+|cc1plus|[Ii]nvalidCxx|clang\+\+", text) else "gcc"
    return "", f"On the box: `apt-get install -y {packages}`, then try again. {why}"


def _missing(text: str) -> str:
    """The package to install, in pip's name; "" if the message names none."""
    if meant := next((package for words, package in MEANT if re.search(words, text)), ""):
        return meant
    if found := _MODULE.search(text):
        return _package_of(found[1])
    found = _PIP.search(text)
    names = re.split(r"[ ,]+", found[1]) if found else []
    taken = [
        name.rstrip(".-") for name in names if name and name.lower() not in ("to", "and", "in", "or", "for", "from")
    ]
    return " ".join(taken[:1])


def _package_of(module: str) -> str:
    return next((PACKAGES[name] for name in (module, module.partition(".")[0]) if name in PACKAGES), "") or (
        module.partition(".")[0].replace("_", "-")
    )
