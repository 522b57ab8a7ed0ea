"""Hold the files of a dataset against those that LeRobot reads: absent, not fetched, damaged, of the format before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pi0q.jobs.dataset_checks.contents import BadFile, DatasetContents, FileFault
from pi0q.jobs.dataset_checks.finding import Finding, Source
from pi0q.jobs.outcome import Reason

#: Files that one sentence names.
NAMED = 3
#: What of meta/ the statistics' own check is about.
_STATS = "meta/stats.json"


def check(contents: DatasetContents, at: Source) -> Iterator[Finding]:
    """Yield what LeRobot could not read."""
    pointers = [bad for bad in contents.bad_files if bad.fault is FileFault.POINTER]
    if pointers:
        yield _pointers(pointers, at)
    if unreadable := [bad for bad in contents.bad_files if bad.fault is FileFault.UNREADABLE]:
        yield _unreadable(unreadable, at)
    hidden = {bad.path for bad in pointers}
    missing = [
        bad
        for bad in contents.bad_files
        if bad.fault is FileFault.MISSING and bad.path != _STATS and bad.path not in hidden
    ]
    meta = [bad for bad in missing if bad.path.startswith("meta/")]
    if meta and contents.has_v2_files and contents.version.startswith("v3"):
        yield _edited_version(meta, contents, at)
    elif missing:
        yield _missing(missing, at)
    yield from _columns(contents, at)


def _pointers(bad: Sequence[BadFile], at: Source) -> Finding:
    where = f"cd {at.root} && git lfs install && git lfs pull" if at.root else "git lfs pull && git push"
    return Finding(
        what=f"{_listed(bad)} {_is(bad)} not the data but what Git LFS leaves in their place until they are fetched",
        where=bad[0].path,
        cure=f"`{where}`" + ("" if at.root else " where the repository was pushed from, then let the job go on"),
    )


def _unreadable(bad: Sequence[BadFile], at: Source) -> Finding:
    said = f": {bad[0].detail}" if bad[0].detail else ""
    cure = "a recording that was cut off leaves such files: copy the dataset here again, or record the episode anew"
    return Finding(
        what=f"{_listed(bad)} can't be read{said}",
        where=bad[0].path,
        cure=cure if at.root else f"upload {at.repo_id} again, then let the job go on",
    )


def _edited_version(bad: Sequence[BadFile], contents: DatasetContents, at: Source) -> Finding:
    place = f" --root={at.root}" if at.root else ""
    return Finding(
        what=f"meta/info.json says {contents.version}, and the files are those of v2.1 "
        f"({_listed(bad)} {_is(bad)} missing)",
        where="meta/info.json: codebase_version",
        cure="write v2.1 there again and convert the dataset: `python -m lerobot.scripts.convert_dataset_v21_to_v30 "
        f"--repo-id={at.repo_id}{place}`{at.after}",
        reason=Reason.DATASET_FORMAT,
    )


def _missing(bad: Sequence[BadFile], at: Source) -> Finding:
    source = "copy the whole directory here again" if at.root else f"upload {at.repo_id} whole, then let the job go on"
    return Finding(
        what=f"{_listed(bad)} {_is(bad)} missing, and LeRobot would ask the Hub for the rest",
        where=bad[0].path,
        cure=source,
        reason=Reason.DATASET_DAMAGED,
    )


def _columns(contents: DatasetContents, at: Source) -> Iterator[Finding]:
    """`datasets` casts the tables to what info.json says, and refuses a column more or less."""
    if contents.lacking_columns:
        names = ", ".join(contents.lacking_columns[:NAMED])
        yield Finding(
            what=f"meta/info.json names features that the data do not have: {names}",
            where=f"data/: {contents.lacking_columns[0]}",
            cure="take them out of `features` in meta/info.json" + at.after,
        )
    if contents.extra_columns:
        names = ", ".join(contents.extra_columns[:NAMED])
        yield Finding(
            what=f"The data have columns that meta/info.json does not name: {names}",
            where=f"data/: {contents.extra_columns[0]}",
            cure=f"add them to `features` in meta/info.json, or take them out of the data{at.after}",
        )


def _listed(bad: Sequence[BadFile]) -> str:
    shown = [one.path for one in bad[:NAMED]]
    return ", ".join(shown) + (f" and {len(bad) - NAMED} more files" if len(bad) > NAMED else "")


def _is(bad: Sequence[BadFile]) -> str:
    return "is" if len(bad) == 1 else "are"
