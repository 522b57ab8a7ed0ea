"""Files of systemd user units."""

from __future__ import annotations

from pathlib import Path

from pi0q.ops.machine import Machine


def unit_file(machine: Machine, unit: str) -> Path:
    """Return where the user's unit of this name lies."""
    return Path(machine.env.get("XDG_CONFIG_HOME") or machine.user_home / ".config") / "systemd" / "user" / unit


def quoted(text: str) -> str:
    """Quote an argument for a unit file."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
