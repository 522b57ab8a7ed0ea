"""Reversible edits of the user's files: settings and boot script. Pure, except `read` and `write`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from pi0q.workers.host.files import write_atomic

#: Ends each of our lines in a settings file.
MARK = "  # by pi0q box setup"
#: Begins a line of the user's that one of ours replaces.
BEFORE = "# before pi0q box setup: "
#: Ends our line in a boot script.
HOOK_MARK = "# pi0q box setup put this line here"


def with_settings(text: str, values: Mapping[str, str]) -> str:
    """Return the settings file with these values; the user's own lines for the same names become comments."""
    kept = without_settings(text).splitlines()
    names = "|".join(map(re.escape, values))
    # Only one-line values are found; all of pi0q's settings fit on one line.
    taken = re.compile(rf"\s*(?:{names})\s*=") if values else None
    kept = [BEFORE + line if taken and taken.match(line) else line for line in kept]
    ours = [f"{name} = {json.dumps(value, ensure_ascii=False)}{MARK}" for name, value in sorted(values.items())]
    # Before the first table, of which they would be a part otherwise.
    return "".join(f"{line}\n" for line in [*ours, *kept])


def ours(text: str) -> dict[str, str]:
    """Return the values of our lines in a settings file; the user may have changed them since."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    lines = [line.removesuffix(MARK) for line in text.splitlines() if line.endswith(MARK)]
    return {name: str(value) for name, value in tomllib.loads("\n".join(lines)).items()}


def without_settings(text: str) -> str:
    """Return the settings file without our lines, as it was before."""
    lines = [line.removeprefix(BEFORE) for line in text.splitlines() if not line.endswith(MARK)]
    return "".join(f"{line}\n" for line in lines)


def with_hook(text: str, command: str) -> str:
    """Return the boot script with `command` first: the user's part may run forever or exit early."""
    rest = without_hook(text)
    first, line_end, others = rest.partition("\n")
    line = f"{command} || true  {HOOK_MARK}\n"
    if first.startswith("#!"):
        return f"{first}\n{line}{others}" if line_end else f"{first}\n{line}"
    return f"{line}{rest}" if rest else f"#!/bin/bash\n{line}"


def without_hook(text: str) -> str:
    """Return the boot script without our line."""
    return "".join(line for line in text.splitlines(keepends=True) if HOOK_MARK not in line)


def write(path: Path, text: str, mode: int | None = None) -> None:
    """Replace a file atomically, through a link if it is one; `mode` None keeps the one that it has (new: 0644).

    A file that has this content and mode already is not touched.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode is None:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    content = text.encode("utf-8", "surrogateescape")
    if path.is_file() and path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
        return
    write_atomic(path, content, mode=mode)


def read(path: Path) -> str:
    """Return a file's content, "" if there is none; `write` restores bytes that are not UTF-8."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""
