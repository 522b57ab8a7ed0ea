"""Looks at the Python that trains, from within it: prints one line of JSON. It imports nothing of pi0q.

What is found out, by key: python, lerobot, torch, built (the CUDA that torch was built for), cuda (whether it works),
cuda_error, cards (name, arch, whether torch has kernels for it), unmet (requirements that are not met), train_error
and pi0_error (why LeRobot's train script or pi0 can't be imported, "" if they can), wandb, decoders (backend ->
why it decodes no frame, "" if it does; "" names the one that LeRobot takes where a job names none).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

TRAIN = ("lerobot.scripts.lerobot_train", "lerobot.scripts.train")
PI0 = ("lerobot.policies.pi0.modeling_pi0", "lerobot.common.policies.pi0.modeling_pi0")
EXTRAS = ("", "training", "pi")
DECODERS = ("torchcodec", "pyav")


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def why_not(names: tuple[str, ...]) -> str:
    """Why none of these modules can be imported; "" if one can."""
    errors = []
    for name in names:
        try:
            importlib.import_module(name)
            return ""
        except BaseException as error:
            # An older or newer LeRobot has it elsewhere.
            if not (isinstance(error, ModuleNotFoundError) and name.startswith(error.name or "?")):
                errors.append(told(error))
    return errors[0] if errors else f"there is no {names[0]}"


def unmet() -> list[str]:
    """Requirements of LeRobot for training pi0 that this environment does not meet."""
    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(text) for text in importlib.metadata.requires("lerobot") or ()]
    except Exception:
        return []
    found = []
    for one in wanted:
        if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in EXTRAS):
            continue
        have = version(one.name)
        if have is not None and not one.specifier.contains(have, prereleases=True):
            found.append(f"{one.name} {have} is not {one.specifier}")
    return found


def torch_of() -> dict[str, Any]:
    """What torch makes of the GPUs."""
    try:
        import torch
    except BaseException as error:
        return {"torch": None, "torch_error": told(error)}
    seen: dict[str, Any] = {"torch": torch.__version__, "built": torch.version.cuda, "cards": []}
    try:
        seen["cuda"] = torch.cuda.is_available()
        if not seen["cuda"]:
            torch.cuda.init()  # type: ignore[no-untyped-call, unused-ignore]
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            fits = any(runs(built, major, minor) for built in torch.cuda.get_arch_list())
            seen["cards"].append(
                {"name": torch.cuda.get_device_name(index), "arch": f"sm_{major}{minor}", "fits": fits}
            )
    except BaseException as error:
        seen["cuda_error"] = told(error)
    return seen


def runs(built: str, major: int, minor: int) -> bool:
    """Whether kernels built for `sm_86` or, to be compiled at start, `compute_80` run on a card of 8.9."""
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", built)
    if not found:
        return False
    theirs = int(found[2]), int(found[3])
    return theirs <= (major, minor) and (found[1] == "compute" or theirs[0] == major)


def decoders() -> dict[str, str]:
    """What each decoder makes of one frame of a video that is written here; empty where none can be written."""
    try:
        video_utils: Any = importlib.import_module("lerobot.datasets.video_utils")
        with tempfile.TemporaryDirectory() as place:
            video = Path(place) / "frames.mp4"
            write(video)
            return {name: decodes(video_utils, video, name) for name in ("", *DECODERS)}
    except BaseException:
        return {}


def write(video: Path) -> None:
    """Four grey frames."""
    av: Any = importlib.import_module("av")
    np: Any = importlib.import_module("numpy")
    with av.open(str(video), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def decodes(video_utils: Any, video: Path, backend: str) -> str:
    """Why this decoder gives no frame; "" if it does."""
    try:
        frames = video_utils.decode_video_frames(video, [0.1], 0.05, backend or None)
        return "" if tuple(frames.shape) == (1, 3, 64, 64) else f"it gave frames of shape {tuple(frames.shape)}"
    except BaseException as error:
        return told(error)


def main() -> None:
    seen: dict[str, Any] = {"python": ".".join(map(str, sys.version_info[:3]))}
    seen |= {name: version(name) for name in ("lerobot", "wandb")}
    with contextlib.redirect_stdout(io.StringIO()):
        seen |= torch_of()
        seen["unmet"] = unmet()
        seen["train_error"] = why_not(TRAIN) if seen["lerobot"] else ""
        seen["pi0_error"] = why_not(PI0) if seen["lerobot"] and not seen["train_error"] else ""
        seen["decoders"] = decoders() if seen["lerobot"] and not seen["train_error"] else {}
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
