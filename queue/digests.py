"""SHA-1 and SHA-256 without `hashlib`, which loads OpenSSL: 6 ms of a command of a hundred.

They name things (a script, a file that was submitted twice) and guard nothing.
"""

from __future__ import annotations


def sha1(data: bytes) -> str:
    """Return the digest as hexadecimal digits."""
    try:
        from _sha1 import sha1 as digest  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha1 as digest
    return str(digest(data, usedforsecurity=False).hexdigest())


def sha256(data: bytes) -> str:
    """Return the digest as hexadecimal digits."""
    try:
        from _sha2 import sha256 as digest  # type: ignore[import-not-found]
    except ImportError:
        # Python 3.11 and older name that module otherwise.
        from hashlib import sha256 as digest
    return str(digest(data, usedforsecurity=False).hexdigest())
