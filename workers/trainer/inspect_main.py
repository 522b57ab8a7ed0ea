"""Inspect the trainer's Python from within: print one line of JSON. Imports nothing of pi0q.

Keys: python, lerobot, torch, built (the CUDA that torch was built for), cuda (whether it works),
cuda_error, cards (name, arch, whether torch has kernels for it), unmet (requirements that are not met), train_error
and pi0_error (why LeRobot's train script or pi0 can't be imported, "" if they can), wandb, swanlab, absent (those of
OPTIONAL that are not there), foreign (package -> where PYTHONPATH has another one than the
installed), decoders (backend -> why it decodes no frame, "" if it does; "" is LeRobot's default).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import sys
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any

TRAIN = ("lerobot.scripts.lerobot_train", "lerobot.scripts.train")
PI0 = ("lerobot.policies.pi0.modeling_pi0", "lerobot.common.policies.pi0.modeling_pi0")
EXTRAS = ("", "training", "pi")
DECODERS = ("torchcodec", "pyav")
#: What single policies need (model_packages.py).
OPTIONAL = ("diffusers", "faker", "num2words", "peft", "qwen_vl_utils", "scipy", "torchdiffeq", "transformers")
#: Packages that LeRobot's train script imports; another one of these on PYTHONPATH takes the installed one's place.
SHADOWED = (
    "lerobot", "torch", "torchvision", "torchcodec", "datasets", "transformers", "huggingface_hub", "safetensors",
    "accelerate", "draccus", "numpy", "pandas", "pyarrow", "av", "PIL", "wandb", "einops", "packaging",
)  # fmt: skip


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def summary(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def why_not(names: tuple[str, ...]) -> str:
    """Return why none of these modules can be imported; "" if one can."""
    errors = []
    for name in names:
        try:
            importlib.import_module(name)
            return ""
        except BaseException as error:
            # An older or newer LeRobot has it elsewhere.
            if not (isinstance(error, ModuleNotFoundError) and name.startswith(error.name or "?")):
                errors.append(summary(error))
    return errors[0] if errors else f"there is no {names[0]}"


def foreign(pythonpath: str) -> dict[str, str]:
    """Return the packages that PYTHONPATH has though they are installed elsewhere, and where it has them."""
    places = [Path(place).resolve() for place in pythonpath.split(os.pathsep) if place]
    found = {}
    for name in SHADOWED if places else ():
        with contextlib.suppress(Exception):
            file = Path(str(importlib.util.find_spec(name).origin)).resolve()  # type: ignore[union-attr]
            place = next((place for place in places if place in file.parents), None)
            if place is not None and not any(file.is_relative_to(home) for home in homes(name)):
                found[name] = str(file.parent)
    return found


def homes(name: str) -> list[Path]:
    """Return where a package's metadata say that its code lies: beside them, or where an editable install points."""
    packages = importlib.metadata.packages_distributions().get(name) or [name]
    found = list[Path]()
    for package in packages:
        installed = importlib.metadata.distribution(package)
        found.append(Path(str(installed.locate_file(""))).resolve())
        url = str(json.loads(installed.read_text("direct_url.json") or "{}").get("url", ""))
        if url.startswith("file://"):
            found.append(Path(urllib.parse.unquote(url[len("file://") :])).resolve())
    return found


def unmet() -> list[str]:
    """Return LeRobot's requirements for training pi0 that this environment does not meet."""
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
    """Return what torch sees of the GPUs."""
    try:
        import torch
    except BaseException as error:
        return {"torch": None, "torch_error": summary(error)}
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
        seen["cuda_error"] = summary(error)
    return seen


def runs(built: str, major: int, minor: int) -> bool:
    """Return whether kernels built for e.g. `sm_86`, or compiled at start from `compute_80`, run on a GPU of 8.9."""
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", built)
    if not found:
        return False
    theirs = int(found[2]), int(found[3])
    return theirs <= (major, minor) and (found[1] == "compute" or theirs[0] == major)


def decoders() -> dict[str, str]:
    """Return each decoder's error on one frame of a video written here; empty if no video can be written."""
    try:
        video_utils: Any = importlib.import_module("lerobot.datasets.video_utils")
        with tempfile.TemporaryDirectory() as place:
            video = Path(place) / "frames.mp4"
            write(video)
            return {name: decodes(video_utils, video, name) for name in ("", *DECODERS)}
    except BaseException:
        return {}


def write(video: Path) -> None:
    """Write a video of four grey frames."""
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
    """Return why this decoder gives no frame; "" if it does."""
    try:
        frames = video_utils.decode_video_frames(video, [0.1], 0.05, backend or None)
        return "" if tuple(frames.shape) == (1, 3, 64, 64) else f"it gave frames of shape {tuple(frames.shape)}"
    except BaseException as error:
        return summary(error)


def main() -> None:
    seen: dict[str, Any] = {"python": ".".join(map(str, sys.version_info[:3]))}
    seen |= {name: version(name) for name in ("lerobot", "wandb", "swanlab")}
    # Before anything is imported: what is imported may change the path.
    seen["foreign"] = foreign(os.environ.get("PYTHONPATH", ""))
    seen["absent"] = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    with contextlib.redirect_stdout(io.StringIO()):
        seen |= torch_of()
        seen["unmet"] = unmet()
        seen["train_error"] = why_not(TRAIN) if seen["lerobot"] else ""
        seen["pi0_error"] = why_not(PI0) if seen["lerobot"] and not seen["train_error"] else ""
        seen["decoders"] = decoders() if seen["lerobot"] and not seen["train_error"] else {}
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
