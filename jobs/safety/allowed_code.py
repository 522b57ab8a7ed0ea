"""Python files that may run although they come out of a repository: those whose SHA-256 the box's owner lists.

The owner of a box lists them in the file that PI0Q_ALLOW_CODE names, one a line, as `sha256sum` prints them:

    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  lerobot/fast-action-tokenizer/processing.py

Only the hash counts; what follows it is for people. `#` begins a comment.
"""

from __future__ import annotations

import re

_SHA256 = re.compile(r"[0-9a-f]{64}")

#: Hashes that pi0q itself vouches for. None yet: a file goes in here once a person has read it.
SHIPPED: frozenset[str] = frozenset()


def parse(text: str) -> frozenset[str]:
    """The hashes in such a list. Raises ValueError naming the first line that is none."""
    found = set[str]()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if not _SHA256.fullmatch(words[0].lower()):
            raise ValueError(f"line {number} does not begin with a SHA-256 (64 hexadecimal digits)")
        found.add(words[0].lower())
    return frozenset(found)
