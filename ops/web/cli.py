"""`pi0q web`."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import click

from pi0q.jobs.errors import UsageError
from pi0q.ops import web_login
from pi0q.queue import settings

#: The port where none is given.
PORT = 5550
#: The user that may act.
OPERATOR = "operator"


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="Port; 0: any free.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--user", default=web_login.USER, show_default=True, help="User name of those who look.")
@click.option(
    "--password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="One line; created if missing.  [default: PI0Q_HOME/web.password]",
)
@click.option("--actions", is_flag=True, help="Let a second user, `operator`, cancel, hold, release and save jobs.")
@click.option(
    "--actions-password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The operator's, with --actions.  [default: PI0Q_HOME/web-actions.password]",
)
def web(
    port: int, address: str, user: str, password_file: Path | None, actions: bool, actions_password_file: Path | None
) -> None:
    """Serve the web page: boxes with their cards, running jobs, the queue, one page a job with its curves.

    It changes nothing, unless it is started with --actions: then whoever logs in as `operator` may act, and is asked
    before. /metrics, for Prometheus, is behind the same password.
    """
    from pi0q.ops.web.security import Logins, Role
    from pi0q.ops.web.serving import WebOptions, serve

    chosen = settings.load()
    settings.make_home(chosen)
    if not user or ":" in user or not user.isprintable() or user == OPERATOR:
        raise UsageError(f"--user can't be {user!r}. Nothing was started.\nFix: a name without a colon, not {OPERATOR}")
    looking = password_file or chosen.home / "web.password"
    users = {Role.VIEWER: (user, web_login.password(looking))}
    said = [f"user {user}, password in {looking}"]
    if actions or actions_password_file:
        acting = actions_password_file or chosen.home / "web-actions.password"
        users[Role.OPERATOR] = (OPERATOR, web_login.password(acting))
        said.append(f"user {OPERATOR} may act, password in {acting}")
    serve(chosen, WebOptions(port=port, address=address, logins=Logins(users=users)), said, _say)


def _say(text: str) -> None:
    with suppress(OSError):
        click.echo(text)
        sys.stdout.flush()
