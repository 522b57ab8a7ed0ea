"""Packages as `pip install --upgrade` leaves them in a directory: this tree's, and an older one from its archive."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

from pi0q.queue import celery_app
from tests.rig.cluster import TESTS, WITNESS

#: The package as it is imported here, wherever that is.
PLACE = Path(celery_app.__file__).parents[1]
FOLDERS = ("jobs", "queue", "workers", "ops")
#: The package of commit d9c1fa2, for checkouts without history. Made by
#: `git archive d9c1fa2 jobs queue workers ops ':(exclude)ops/pictures' | xz -9e`.
OLD = TESTS / "scenarios" / "upgrade" / "d9c1fa2.tar.xz"


def install(site: Path, version: str) -> None:
    """Replaces what lies in `site` by this tree's package."""
    shutil.rmtree(site, ignore_errors=True)
    for folder in FOLDERS:
        shutil.copytree(PLACE / folder, site / "pi0q" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    _write_metadata(site, version)


def install_old(site: Path, version: str) -> None:
    """Replaces what lies in `site` by the package of commit d9c1fa2."""
    shutil.rmtree(site, ignore_errors=True)
    with tarfile.open(OLD) as archive:
        archive.extractall(site / "pi0q", filter="data")
    _write_metadata(site, version)


def _write_metadata(site: Path, version: str) -> None:
    metadata = site / f"pi0q-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: pi0q\nVersion: {version}\n")


def python_path(site: Path) -> str:
    """PYTHONPATH of a box that runs the package in `site`, with the stand-ins of the scenarios."""
    return os.pathsep.join([str(WITNESS), str(TESTS / "fake_lerobot"), str(site)])
