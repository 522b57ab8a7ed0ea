"""A save while it is written, in words."""

from __future__ import annotations

from pathlib import Path

from pi0q.jobs.checkpoint import step_of

#: Bytes below which a save is over too soon to be counted.
WORTH_TELLING = 1_000_000_000


def said(checkpoints: Path, step: int, *, expected: int | None) -> str:
    """`saving step 3000 (4.2 of 22.1 GB)`: what lies there, and the bytes of the checkpoint before it if known."""
    done = sum(written(place) for place in checkpoints.glob("*") if step_of(place.name) == step)
    if max(done, expected or 0) < WORTH_TELLING:
        return f"saving step {step}"
    # A file of another size than last time is no reason to say more than all.
    return f"saving step {step} ({done / 1e9:.1f}{f' of {max(expected, done) / 1e9:.1f}' if expected else ''} GB)"


def written(place: Path) -> int:
    """Bytes of the files in it; a file that goes away meanwhile has none."""
    total = 0
    for file in place.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total
