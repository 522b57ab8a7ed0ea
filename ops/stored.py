"""Edits that can be taken back: our lines in files that are the user's. Pure, but for `write`."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

#: Ends every line that is ours in a file of settings.
MARK = "  # by pi0q box setup"
#: Begins a line of the user's that ours took the place of.
BEFORE = "# before pi0q box setup: "
#: Ends the line that is ours in a boot script.
HOOK_MARK = "# pi0q box setup put this line here"


def with_settings(text: str, values: Mapping[str, str]) -> str:
    """A settings file that says these; the user's own lines for the same names become comments."""
    kept = without_settings(text).splitlines()
    names = "|".join(map(re.escape, values))
    # A value over several lines can't be told from the outside; all of pi0q's fit on one.
    taken = re.compile(rf"\s*(?:{names})\s*=") if values else None
    kept = [BEFORE + line if taken and taken.match(line) else line for line in kept]
    ours = [f"{name} = {json.dumps(value, ensure_ascii=False)}{MARK}" for name, value in sorted(values.items())]
    # Before the first table, to which they would belong otherwise.
    return "".join(f"{line}\n" for line in [*ours, *kept])


def ours(text: str) -> dict[str, str]:
    """What our lines in a settings file say; their owner may have changed them since."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    lines = [line.removesuffix(MARK) for line in text.splitlines() if line.endswith(MARK)]
    return {name: str(value) for name, value in tomllib.loads("\n".join(lines)).items()}


def without_settings(text: str) -> str:
    """The same file as it was before."""
    lines = [line.removeprefix(BEFORE) for line in text.splitlines() if not line.endswith(MARK)]
    return "".join(f"{line}\n" for line in lines)


def with_hook(text: str, command: str) -> str:
    """A boot script that runs `command` first: what is in it already may go on for ever or leave early."""
    rest = without_hook(text)
    first, line_end, others = rest.partition("\n")
    line = f"{command} || true  {HOOK_MARK}\n"
    if first.startswith("#!"):
        return f"{first}\n{line}{others}" if line_end else f"{first}\n{line}"
    return f"{line}{rest}" if rest else f"#!/bin/bash\n{line}"


def without_hook(text: str) -> str:
    """The same script without our line."""
    return "".join(line for line in text.splitlines(keepends=True) if HOOK_MARK not in line)


def write(path: Path, text: str, mode: int | None = None) -> None:
    """Writes a file whole or not at all, through a link if it is one; with this mode, else the one it had.

    One that says so already is not touched.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode is None:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    content = text.encode("utf-8", "surrogateescape")
    if path.is_file() and path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    # A shared cache's directory may be anyone's: what lies there under that name is not written to.
    opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(opened, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(mode)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read(path: Path) -> str:
    """What a file says; "" if there is none. What is not UTF-8 is written back as it was."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""
