"""`pi0q server`: who may use the queue's server of this machine."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pi0q.jobs.errors import UsageError
from pi0q.queue import job_text
from pi0q.queue import settings as all_settings
from pi0q.queue.commands.key import sign as sign_jobs

if TYPE_CHECKING:
    from pi0q.ops.server.registry import Handed
    from pi0q.ops.server.users import User

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_JOBS = click.option("--jobs", type=click.IntRange(0), help="Waiting jobs that the user may have.  [default: 1000]")
_MIB = click.option("--mib", type=click.IntRange(0), help="MiB of the records of these jobs.  [default: 64]")
RESTART = "pi0q up --stop; pi0q up -d"


@click.group()
def server() -> None:
    """Give each box and person an own user of the queue's server, with the rights of its role.

    \b
      submitter   submits, cancels, holds and prioritises jobs
      worker      a box: claims jobs and reports on them, under its own name
      viewer      reads: ls, show, why, logs, watch
      flower      a submitter that may run the web page too
      admin       everything, drain and prune too

    Run it on the server's machine. `pi0q up` there has one password until `pi0q server init`.
    """


@server.command()
@click.option("--memory-mib", type=click.IntRange(64), help="Memory of the queue.  [default: a quarter of the machine]")
@click.option("--tls/--no-tls", default=None, help="Encrypt: listen for other machines, with an own authority.")
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="Name or address of this machine, with --tls.")
@click.option("--new-passwords", is_flag=True, help="Also give the parts of `pi0q up` here new passwords.")
def init(memory_mib: int | None, tls: bool | None, hosts: tuple[str, ...], new_passwords: bool) -> None:
    """Turn roles on.

    From the next start of the server on; the one password that it had until then ends. Run it again to change what
    an option says; all else and the users stay.

    With --tls the server takes encrypted connections alone, from other machines too: name this one with --host as
    they will. Each user gets a certificate besides its password. Without it use ssh tunnels.
    """
    from pi0q.ops.server import users
    from pi0q.ops.server.registry import Registry
    from pi0q.ops.server.roles import prefix_fault

    chosen = all_settings.load()
    if fault := prefix_fault(chosen.prefix):
        raise UsageError(f"PI0Q_PREFIX={chosen.prefix} can't be named in a rule: {fault}. Nothing was changed.")
    registry = Registry(chosen)
    known = users.read(registry.data)
    tls = tls if tls is not None else known is not None and known.tls
    hosts = _hosts(hosts or (known.hosts if known else ()), tls=tls)
    memory = memory_mib or (known.memory_mib if known else _quarter_of_memory())
    wanted = users.Access(prefix=chosen.prefix, memory_mib=memory, tls=tls, hosts=hosts)
    registry.init(wanted, new_passwords=new_passwords)
    click.echo(f"Roles {'stay' if known else 'are'} on for the server in {registry.data}.")
    if registry.is_up():
        click.echo(f"The running server has this when you start it again: {RESTART}")
    if not known:
        click.echo("From then on boxes and people need users of their own; the password that they have now ends.")
        click.echo("Next: pi0q server add-box NAME for each box, pi0q server add-user NAME for each person")


def _hosts(hosts: tuple[str, ...], *, tls: bool) -> tuple[str, ...]:
    """Return the names of this machine that its certificate has; none without TLS. Raises UsageError."""
    from pi0q.ops.server import binary

    if not tls:
        return ()
    if not hosts:
        raise UsageError("--tls needs the name of this machine for others. Nothing was changed.\nFix: --host NAME")
    if not binary.has_tls(found := binary.find_binary(os.environ)):
        raise UsageError(binary.no_tls(found) + "Nothing was changed.\n" + binary.TLS_CURE)
    for host in hosts:
        if not re.fullmatch(r"[A-Za-z0-9._:-]{1,253}", host):
            raise UsageError(f"--host {host!r} is no name or address of a machine. Nothing was changed.")
    return hosts


@server.command("add-box")
@click.argument("name")
@_JOBS
@_MIB
def add_box(name: str, jobs: int | None, mib: int | None) -> None:
    """Add a user for a box, which must have this name (PI0Q_BOX)."""
    _add(name, "worker", jobs, mib)


@server.command("add-user")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["submitter", "viewer", "flower", "admin"]),
    default="submitter",
    show_default=True,
    help="What the user may do.",
)
@_JOBS
@_MIB
def add_user(name: str, role: str, jobs: int | None, mib: int | None) -> None:
    """Add a user for a person."""
    _add(name, role, jobs, mib)


@server.command()
@click.argument("name")
@_JOBS
@_MIB
def limit(name: str, jobs: int | None, mib: int | None) -> None:
    """Change how much a user may have waiting."""
    from pi0q.ops.server.registry import Registry

    user = Registry(all_settings.load()).limit(name, jobs=jobs, mib=mib)
    click.echo(f"{user.name} may have {user.jobs} jobs and {user.mib} MiB of their records waiting.")


@server.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Remove a user and cut its connections, at once."""
    from pi0q.ops.server.registry import Registry

    closed = Registry(all_settings.load()).revoke(name)
    if closed is None:
        click.echo(f"{name} is removed. The server does not run with roles now; it will not know {name}.")
    else:
        click.echo(f"{name} is removed; {closed} connection{'' if closed == 1 else 's'} of it {_was(closed)} closed.")


@server.command()
@click.argument("jobs", metavar="[JOB]...", nargs=-1)
@click.option("--from", "source", type=click.Path(path_type=Path), help="A backup.  [default: the newest]")
@_JSON
def restore(jobs: tuple[str, ...], source: Path | None, as_json: bool) -> None:
    """Bring damaged records of jobs back from the backup.

    `pi0q up` keeps it: each change within seconds, eight files of a day. Only what is missing or damaged is written;
    a record that is good, or has a later claim number, stays as it is. Without JOB: all that are damaged.
    """
    from pi0q.ops.server.backup.restore import Restorer
    from pi0q.ops.server.registry import Registry
    from pi0q.queue.current_user import user
    from pi0q.queue.store import Store

    registry = Registry(all_settings.load())
    with registry.connected() as client:
        restorer = Restorer(Store(client, registry.settings.prefix), registry.data, chosen=source)
        text = f"restored by {user()}"
        outcomes = list(restorer.restore(restorer.jobs(jobs), text=text))
    told = [one for one in outcomes if jobs or one.result != "good"]
    if as_json:
        job_text.print_json({"from": str(restorer.path), "jobs": [vars(one) for one in told]})
    for one in told if not as_json else ():
        click.echo(f"{one.job}  {_RESTORED[one.result]}{f': {one.detail}' if one.detail else ''}")
    if not told and not as_json:
        click.echo(f"No record of the {len(outcomes)} in {restorer.path} is missing or damaged. Nothing was changed.")
    if any(one.result not in ("back", "good") for one in told):
        sys.exit(1)


#: What became of a record, in words.
_RESTORED = {
    "back": "restored",
    "good": "is as it should be; nothing was changed",
    "changed": "changed meanwhile and was left alone; try again",
    "owned": "a box has it under a later claim; nothing was changed",
    "lost": "could not be restored",
}


@server.command("list")
@_JSON
def show(as_json: bool) -> None:
    """List users, roles and limits."""
    from pi0q.ops.server.registry import Registry
    from pi0q.ops.server.users import OWN_PARTS

    access = Registry(all_settings.load()).access()
    rows = [
        {"name": user.name, "role": str(user.role), "box": user.box, "jobs": user.jobs, "mib": user.mib}
        for user in sorted(access.users, key=lambda user: (user.name in OWN_PARTS, user.name))
    ]
    if as_json:
        job_text.print_json({"users": rows, "memory_mib": access.memory_mib, "tls": access.tls})
        return
    width = max(len(str(row["name"])) for row in rows) + 2
    click.echo(f"{'USER':<{width}}{'ROLE':<11}{'WAITING':<20}BOX")
    for row in rows:
        waiting = "any" if row["role"] == "admin" else "none" if row["role"] == "viewer" else ""
        waiting = waiting or f"{row['jobs']} jobs, {row['mib']} MiB"
        click.echo(f"{row['name']:<{width}}{row['role']:<11}{waiting:<20}{row['box']}".rstrip())
    click.echo(f"{', '.join(OWN_PARTS)}: the parts of pi0q up on this machine.")


def _add(name: str, role: str, jobs: int | None, mib: int | None) -> None:
    from pi0q.ops.server import users
    from pi0q.ops.server.registry import Registry
    from pi0q.ops.server.roles import Role

    if fault := users.name_fault(name):
        raise UsageError(f"{name!r} can't be the name of a user: {fault}. Nothing was changed.")
    user = users.User(
        name=name,
        role=Role(role),
        password_hash="0" * 64,
        box=name if role == "worker" else "",
        jobs=users.MOST_JOBS if jobs is None else jobs,
        mib=users.MOST_MIB if mib is None else mib,
    )
    _tell(user, Registry(all_settings.load()).add(user))


def _tell(user: User, handed: Handed) -> None:
    when = "" if handed.live else f" It counts from the next start of the server on: {RESTART}"
    click.echo(f"{user.name} is a {user.role} of the server.{when}")
    click.echo(f"What it needs lies in {handed.folder}: hand it over and remove it here.")
    if (handed.folder / "tls").is_dir():
        click.echo("Its folder tls goes to ~/.config/pi0q/tls there, or wherever PI0Q_TLS says.")
    # A file or a journal that standard output goes to is no place for a password.
    if sys.stdout.isatty():
        click.echo(f"  export PI0Q_REDIS_URL='{handed.url}'")


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _quarter_of_memory() -> int:
    return max(256, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // 2**20)


# What an admin does with the jobs that waited when the first key appeared.
server.add_command(sign_jobs)
