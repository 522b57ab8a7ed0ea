"""Files of keys: who may read and write them, and what a damaged one means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pi0q.jobs.signing.keys import Role, TrustedKeys
from pi0q.queue import ed25519, keys
from pi0q.queue.keys import BadKeyFile


@pytest.fixture
def private(tmp_path: Path) -> Path:
    path = tmp_path / "pi0q" / "signing_key.pem"
    keys.create_private(path)
    return path


def test_a_private_key_is_its_owners_alone_and_is_never_replaced(private: Path) -> None:
    assert private.stat().st_mode & 0o777 == 0o600 and private.parent.stat().st_mode & 0o077 == 0
    before = private.read_bytes()
    with pytest.raises(FileExistsError):
        keys.create_private(private)
    assert private.read_bytes() == before and [path.name for path in private.parent.iterdir()] == [private.name]


def test_what_it_signs_its_public_half_verifies(private: Path) -> None:
    key = keys.load_private(private, Role.SUBMITTER, "ada")
    trusted = TrustedKeys(keys=(key.public,))
    value = key.sign(b"x")
    assert keys.verifies(trusted, Role.SUBMITTER, key.id, b"x", value)
    assert not keys.verifies(trusted, Role.SUBMITTER, key.id, b"y", value)
    assert not keys.verifies(trusted, Role.BOX, key.id, b"x", value)
    assert not keys.verifies(TrustedKeys(), Role.SUBMITTER, key.id, b"x", value)
    assert not keys.verifies(trusted, Role.SUBMITTER, key.id, b"x", "no base64!")


@pytest.mark.parametrize(("mode", "why"), [(0o644, "can be read by other users"), (0o620, "can be written by others")])
def test_a_private_key_that_others_may_read_or_write_signs_nothing(private: Path, mode: int, why: str) -> None:
    private.chmod(mode)
    with pytest.raises(BadKeyFile, match=f"{why[:18]}.*\n?Fix: chmod 600|{why[:18]}"):
        keys.load_private(private, Role.SUBMITTER)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_that_holds_no_key_is_told_with_a_cure(private: Path, content: bytes) -> None:
    private.write_bytes(content)
    with pytest.raises(BadKeyFile, match="holds no Ed25519 private key"):
        keys.load_private(private, Role.SUBMITTER)


def test_a_box_makes_its_key_once(tmp_path: Path) -> None:
    first = keys.box_key(tmp_path, "box-a")
    assert keys.box_key(tmp_path, "box-a").id == first.id and first.public.role is Role.BOX


def test_trusted_keys_read_as_they_were_written_and_a_missing_file_demands_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x" / "trusted_keys"
    assert keys.read_trusted(path) is None
    trusted = TrustedKeys(keys=(keys.box_key(tmp_path, "box-a").public,))
    keys.write_trusted(path, trusted)
    assert keys.read_trusted(path) == trusted
    keys.write_trusted(path, TrustedKeys())
    assert keys.read_trusted(path) == TrustedKeys()


def test_a_damaged_file_of_trusted_keys_trusts_nobody(tmp_path: Path) -> None:
    path = tmp_path / "trusted_keys"
    keys.write_trusted(path, TrustedKeys(keys=(keys.box_key(tmp_path, "box-a").public,)))
    good = path.read_text()
    path.write_text(f"{good}\nbox ed25519 AAAA x\n")
    with pytest.raises(BadKeyFile, match="line 4"):
        keys.read_trusted(path)
    path.write_text(good)
    path.chmod(0o666)
    with pytest.raises(BadKeyFile, match="can be written by other users"):
        keys.read_trusted(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(BadKeyFile, match="can't be read"):
        keys.read_trusted(path)


def test_an_encrypted_key_is_no_key() -> None:
    assert ed25519.load(os.urandom(64)) is None
