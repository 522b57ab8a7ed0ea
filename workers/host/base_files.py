"""Facts of a base that lies on this box: its config.json and the headers of its safetensors files, some kB."""

from __future__ import annotations

from pathlib import Path

from pi0q.jobs.estimates import base_facts
from pi0q.jobs.estimates.base_facts import ADAPTER, CONFIG, INDEX, MOST_CONFIG, MOST_INDEX, WEIGHTS, BaseFacts, Tensor
from pi0q.workers.host.own_files import Untrusted, open_for_reading


def read(directory: Path) -> BaseFacts | None:
    """Return the facts of the model in a directory; None where there is none that can be read safely.

    Links are followed only inside a snapshot of the Hub's cache, and there only to the same repository's files.
    """
    try:
        config = _read(directory / CONFIG, MOST_CONFIG)
        if (directory / ADAPTER).is_file() and not (directory / WEIGHTS).exists():
            return base_facts.facts(config, (), adapter=True)
        files = [WEIGHTS]
        if not (directory / WEIGHTS).exists():
            files = base_facts.files_of(_read(directory / INDEX, MOST_INDEX))
        return base_facts.facts(config, [one for name in files for one in _tensors(directory / name)])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tensors(path: Path) -> list[Tensor]:
    with open_for_reading(_real(path)) as file:
        size = base_facts.header_bytes(file.read(8))
        return base_facts.tensors(file.read(size))


def _read(path: Path, most: int) -> bytes:
    with open_for_reading(_real(path)) as file:
        return file.read(most + 1)


def _real(path: Path) -> Path:
    if path.is_symlink() and path.parent.parent.name == "snapshots":
        real = path.resolve()
        if not real.is_relative_to(path.parent.parent.parent.resolve()):
            raise Untrusted(f"{path} is a link that leads out of its repository")
        return real
    return path
