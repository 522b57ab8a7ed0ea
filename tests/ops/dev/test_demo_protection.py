"""What `make demo` switches on to protect its queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi0q.ops.dev import demo_protection
from pi0q.ops.dev.demo_protection import choose
from tests.conftest import PI0Q, Command

SERVER = Path("/usr/bin/some-server")


@pytest.mark.parametrize(
    ("version", "has_tls", "has_cryptography", "expected", "missing"),
    [
        ((7, 2), True, True, (True, True, True), []),
        ((9, 1), False, True, (True, False, True), ["TLS"]),
        ((6, 2), True, True, (False, False, True), ["roles"]),
        ((9, 1), True, False, (True, False, False), ["TLS and signatures"]),
    ],
)
def test_what_the_machine_lacks_is_left_out_and_said(
    version: tuple[int, int], has_tls: bool, has_cryptography: bool, expected: tuple[bool, ...], missing: list[str]
) -> None:
    found = choose(SERVER, version=version, has_tls=has_tls, has_cryptography=has_cryptography)
    assert (found.roles, found.tls, found.signatures) == expected
    assert [one.partition(":")[0] for one in found.missing] == missing


def test_its_key_is_the_only_one_that_its_box_trusts(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    demo_protection.trust_own_key(list(PI0Q))
    told = call("key", "list").stdout
    assert told.count("submitter") == 1


def test_its_user_is_found_where_add_user_left_it(call: Command, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert call("server", "init").returncode == 0
    assert call("server", "add-user", "ada").returncode == 0
    found = demo_protection.environment_of(home)
    assert list(found) == ["PI0Q_REDIS_URL"] and found["PI0Q_REDIS_URL"].startswith("redis://ada:")
