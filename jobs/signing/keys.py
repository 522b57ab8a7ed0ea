"""Public keys that a machine trusts: the lines of its file `trusted_keys`. Pure.

submitter ed25519 BASE64 alice@laptop        signs job files
box ed25519 BASE64 gpu1                      signs checkpoints and claims; it may sign no job
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from pi0q.jobs.printable import printable

#: Keys of one file, and characters of a label.
MAX_KEYS, MAX_LABEL = 10_000, 100
ALGORITHM = "ed25519"
#: Bytes of a public key.
KEY_BYTES = 32
#: Characters of a key's id.
ID_CHARACTERS = 16


class Role(str, Enum):
    """What a key may sign."""

    SUBMITTER = "submitter"
    BOX = "box"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """A public key with what it may sign and whose it is."""

    role: Role
    #: The 32 bytes of the key.
    raw: bytes
    #: Whose it is, for people; it decides nothing.
    label: str = ""

    @property
    def id(self) -> str:
        """Return the key's short name: the beginning of its SHA-256."""
        import hashlib

        return hashlib.sha256(self.raw).hexdigest()[:ID_CHARACTERS]

    def line(self) -> str:
        """Return the key as a line of `trusted_keys`."""
        encoded = base64.b64encode(self.raw).decode()
        return f"{self.role} {ALGORITHM} {encoded} {self.label}".rstrip()


class BadKey(ValueError):
    """A line that is no public key; the text says what is wrong."""


def parse_line(line: str) -> PublicKey:
    """Return the key in a line of `trusted_keys`. Raises BadKey."""
    words = line.split(maxsplit=3)
    roles = {role.value: role for role in Role}
    if len(words) < 3 or words[0] not in roles or words[1] != ALGORITHM:
        raise BadKey(
            f"must be `submitter {ALGORITHM} KEY NAME` or `box {ALGORITHM} KEY NAME`, as `pi0q key show` prints"
        )
    try:
        raw = base64.b64decode(words[2], validate=True)
    except (binascii.Error, ValueError):
        raise BadKey("holds a key that is not base64") from None
    if len(raw) != KEY_BYTES:
        raise BadKey(f"holds a key of {len(raw)} bytes instead of {KEY_BYTES}")
    label = printable(words[3], lines=False)[:MAX_LABEL] if len(words) > 3 else ""
    return PublicKey(role=roles[words[0]], raw=raw, label=label)


@dataclass(frozen=True, kw_only=True)
class TrustedKeys:
    """The keys of one file; what it does not hold is not trusted."""

    keys: tuple[PublicKey, ...] = ()

    def by_id(self, role: Role) -> Mapping[str, PublicKey]:
        """Return the keys of this role by their ids."""
        return {key.id: key for key in self.keys if key.role is role}

    def find(self, key_id: str, role: Role) -> PublicKey | None:
        """Return the trusted key of this id that may sign such a thing; None where none is."""
        return self.by_id(role).get(key_id)


def parse_file(lines: Iterable[str]) -> tuple[TrustedKeys, list[str]]:
    """Return the keys of a file and its faults, each with its line; empty lines and `#` comments count for nothing."""
    keys, faults = dict[tuple[Role, str], PublicKey](), list[str]()
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            key = parse_line(text)
        except BadKey as error:
            faults.append(f"line {number}: {error}")
            continue
        keys[key.role, key.id] = key
        if len(keys) > MAX_KEYS:
            faults.append(f"line {number}: more than {MAX_KEYS} keys")
            break
    return TrustedKeys(keys=tuple(keys.values())), faults
