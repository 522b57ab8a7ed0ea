"""Key files of this machine: the user's signing key, the keys that it trusts, and a box's own key.

    ~/.config/pi0q/signing_key.pem    the user's private key (0600); `pi0q submit` signs with it
    ~/.config/pi0q/trusted_keys       public keys, a line each; where the file is there, signatures are demanded
    PI0Q_HOME/box_key.pem             a box's private key (0600), on the data disk, so that no image holds it

`cryptography` is imported only where a key is made, signs or verifies.
"""

from __future__ import annotations

import base64
import contextlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pi0q.jobs.errors import Pi0qError, UsageError
from pi0q.jobs.signing.job_signature import Verifier
from pi0q.jobs.signing.keys import PublicKey, Role, TrustedKeys, parse_file
from pi0q.queue.settings import config_path

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNING_KEY, TRUSTED_KEYS, BOX_KEY = "signing_key.pem", "trusted_keys", "box_key.pem"
#: Bytes of a file of keys that are read.
MAX_FILE = 4 * 1024 * 1024
INSTALL = "pip install 'pi0q[sign]'"


class BadKeyFile(UsageError):
    """A file of keys that can't be used as it is; the text says why, and what to do."""


def signing_key_path(env: Mapping[str, str] | None = None) -> Path:
    """Return where the user's private key lies."""
    return config_path(os.environ if env is None else env).with_name(SIGNING_KEY)


def trusted_keys_path(env: Mapping[str, str] | None = None) -> Path:
    """Return where the keys that this machine trusts lie."""
    return config_path(os.environ if env is None else env).with_name(TRUSTED_KEYS)


@dataclass(frozen=True, kw_only=True)
class PrivateKey:
    """A private key that signs."""

    public: PublicKey
    _key: Ed25519PrivateKey

    @property
    def id(self) -> str:
        """Return the id of its public key."""
        return self.public.id

    def sign(self, data: bytes) -> str:
        """Return the signature of these bytes, base64."""
        return base64.b64encode(self._key.sign(data)).decode()


def load_private(path: Path, role: Role, label: str = "") -> PrivateKey:
    """Return the private key in a file. Raises BadKeyFile, and FileNotFoundError where there is none."""
    from pi0q.queue import ed25519

    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if why := _strangers(os.fstat(file.fileno()), secret=True):
            raise BadKeyFile(f"The private key {path} {why}; nothing was signed.\nFix: chmod 600 {path}")
        raw = file.read(MAX_FILE)
    key = ed25519.load(raw)
    if key is None:
        raise BadKeyFile(
            f"{path} holds no Ed25519 private key; nothing was signed.\n"
            f"Fix: move it away and run `pi0q key new`, then trust the new key on each box"
        )
    return PrivateKey(public=PublicKey(role=role, raw=ed25519.public_of(key), label=label), _key=key)


def create_private(path: Path) -> None:
    """Make a new private key, readable by its owner alone. Raises FileExistsError where there is one, OSError."""
    from pi0q.queue import ed25519

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(ed25519.generate())
            file.flush()
            os.fsync(file.fileno())
        # A link fails where another process was first; a rename would replace its key.
        os.link(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def box_key(home: Path, box: str) -> PrivateKey:
    """Return this box's key; it is made at the first call. Raises BadKeyFile, OSError."""
    path = home / BOX_KEY
    if not path.exists():
        with contextlib.suppress(FileExistsError):
            create_private(path)
    return load_private(path, Role.BOX, box)


def read_trusted(path: Path) -> TrustedKeys | None:
    """Return the keys that this machine trusts; None where there is no file: then nothing need be signed.

    Raises BadKeyFile where the file can't be read, others can write it, or a line is no key: then nothing is trusted.
    """
    try:
        with path.open("rb") as file:
            if why := _strangers(os.fstat(file.fileno()), secret=False):
                raise BadKeyFile(f"{path} {why}; no key in it is trusted.\nFix: chmod 644 {path}")
            raw = file.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadKeyFile(f"{path} can't be read: {error.strerror}; no key in it is trusted.") from None
    if len(raw) > MAX_FILE:
        raise BadKeyFile(f"{path} is larger than {MAX_FILE // 2**20} MiB; no key in it is trusted.")
    keys, faults = parse_file(raw.decode("utf-8", "replace").splitlines())
    if faults:
        raise BadKeyFile("\n".join([f"{path} has errors; no key in it is trusted.", *(f"  {one}" for one in faults)]))
    return keys


def write_trusted(path: Path, keys: TrustedKeys) -> None:
    """Replace the file of trusted keys. Raises OSError; the old file is left then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write("# Keys that this machine trusts: see `pi0q help key`.\n")
            file.writelines(f"{key.line()}\n" for key in keys.keys)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def verifies(keys: TrustedKeys, role: Role, key_id: str, data: bytes, signature: str) -> bool:
    """Return whether a trusted key of this role and id made this signature. Raises ModuleNotFoundError."""
    from pi0q.queue import ed25519

    key = keys.find(key_id, role)
    try:
        raw = base64.b64decode(signature, validate=True)
    except ValueError:
        return False
    return key is not None and ed25519.verifies(key.raw, data, raw)


def verifier(keys: TrustedKeys, prefix: str) -> Verifier:
    """Return what verifies the signatures of a queue's records by these keys."""

    def knows(key_id: str) -> bool:
        return keys.find(key_id, Role.SUBMITTER) is not None

    def by_submitter(key_id: str, data: bytes, value: str) -> bool:
        return verifies(keys, Role.SUBMITTER, key_id, data, value)

    def by_box(key_id: str, data: bytes, value: str) -> bool:
        return verifies(keys, Role.BOX, key_id, data, value)

    return Verifier(prefix=prefix, knows=knows, by_submitter=by_submitter, by_box=by_box)


def missing_package(error: ModuleNotFoundError) -> Pi0qError:
    """Return the error for a user who has keys and lacks the package."""
    return UsageError(f"Signing needs {error.name}, which is not installed here; nothing was done.\nFix: {INSTALL}")


def _strangers(info: os.stat_result, *, secret: bool) -> str:
    """Return why others than this user and root can change a file or, where it is `secret`, read it; "" if not."""
    if info.st_uid not in (os.geteuid(), 0):
        return "belongs to another user"
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by other users"
    if secret and info.st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return "can be read by other users"
    return ""
