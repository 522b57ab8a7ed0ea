"""Keys of this machine: whether they can be used, and whom it trusts."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from pi0q.jobs.signing.keys import Role
from pi0q.ops.checks.finding import CheckTarget, Finding, broken, ok, warning
from pi0q.queue import keys
from pi0q.queue.keys import BadKeyFile


def check(target: CheckTarget) -> Iterator[Finding]:
    """Yield the findings on keys; none where this machine has no keys and demands no signatures."""
    own, trusted = keys.signing_key_path(target.machine.env), keys.trusted_keys_path(target.machine.env)
    demanded = target.box and trusted.exists()
    if not own.exists() and not demanded:
        return
    if find_spec("cryptography") is None:
        yield broken("keys", "there are keys, and the package that signs and verifies is not installed", keys.INSTALL)
        return
    if own.exists():
        yield from _own(target)
    if demanded:
        yield from _trusted(target)


def _own(target: CheckTarget) -> Iterator[Finding]:
    path = keys.signing_key_path(target.machine.env)
    try:
        yield ok("signing key", f"{keys.load_private(path, Role.SUBMITTER).id}: `pi0q submit` signs")
    except BadKeyFile as error:
        yield broken("signing key", *_parts(error, f"chmod 600 {path}"))


def _trusted(target: CheckTarget) -> Iterator[Finding]:
    path = keys.trusted_keys_path(target.machine.env)
    try:
        trusted = keys.read_trusted(path)
    except BadKeyFile as error:
        yield broken("trusted keys", *_parts(error, f"remove what is no key from {path}, or trust the keys anew"))
        return
    submitters = len(trusted.by_id(Role.SUBMITTER)) if trusted else 0
    boxes = len(trusted.by_id(Role.BOX)) if trusted else 0
    told = f"this box runs jobs signed with {submitters} key{'s' * (submitters != 1)}, and takes over the checkpoints "
    told += f"of {boxes} other box{'es' * (boxes != 1)}"
    if submitters:
        yield ok("trusted keys", told)
    else:
        yield warning("trusted keys", f"{told}: it takes no job", "pi0q key show | ssh BOX pi0q key trust -")


def _parts(error: BadKeyFile, cure: str) -> tuple[str, str]:
    happened, _, fix = str(error).partition("\nFix: ")
    return " ".join(happened.split()), fix or cure
