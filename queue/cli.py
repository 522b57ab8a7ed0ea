"""The `pi0q` command. Its root knows the verbs by dotted name only, so that each pays just for itself."""

from __future__ import annotations

import io
import sys
from importlib import import_module
from typing import Any

import click

from pi0q.jobs.errors import Pi0qError, UsageError

#: verb -> (where it is, the extra that brings what it needs, one line of help). The order is that of the help.
VERBS: dict[str, tuple[str, str, str]] = {
    "submit": ("pi0q.queue.verbs.submit:submit", "", "Put a training into the queue."),
    "import": ("pi0q.queue.verbs.import_:import_", "", "Make a job file of a lerobot-train command line."),
    "ls": ("pi0q.queue.verbs.ls:ls", "", "One line for each job."),
    "show": ("pi0q.queue.verbs.show:show", "", "All that is known of one job."),
    "why": ("pi0q.queue.verbs.why:command", "", "Why a job is where it is, what it needs, what would help."),
    "logs": ("pi0q.queue.verbs.logs:logs", "", "The last lines of a job's training log."),
    "watch": ("pi0q.queue.verbs.watch:watch", "", "Watch one job, or all, live."),
    "checkpoint": ("pi0q.queue.verbs.checkpoint:checkpoint", "", "Save a running job now; it goes on."),
    "cancel": ("pi0q.queue.verbs.cancel:cancel", "", "End a job for good, waiting or running."),
    "retry": ("pi0q.queue.verbs.retry:retry", "", "Go on with a job that failed or was cancelled."),
    "hold": ("pi0q.queue.verbs.hold:hold", "", "Keep a job out of the queue; a running one saves and stops."),
    "release": ("pi0q.queue.verbs.hold:release", "", "Let a job that was held go on."),
    "bump": ("pi0q.queue.verbs.bump:bump", "", "Give a job another priority."),
    "boxes": ("pi0q.queue.verbs.boxes:boxes", "", "The GPU boxes, what they have free and run."),
    "drain": ("pi0q.queue.verbs.drain:drain", "", "Keep a box from new jobs, to switch it off or give it back."),
    "worker": ("pi0q.workers.cli:worker", "worker", "Make this machine a box: claim and run jobs."),
    "cache": ("pi0q.workers.cache_cli:cache", "worker", "What fills this box's data disk: list, remove, keep."),
    "up": ("pi0q.ops.cli:up", "worker,server,flower", "Server, worker and Flower on this machine in one go."),
    "doctor": ("pi0q.ops.doctor:doctor", "", "What keeps trainings from running, and what mends it."),
    "box": ("pi0q.ops.box:box", "", "Make this machine a box that starts its worker by itself."),
    "flower": ("pi0q.ops.cli:flower", "flower", "The web page of the queue, on its own."),
}


class Root(click.Group):
    """Loads a verb when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        path, _, _ = VERBS[cmd_name]
        module, _, attribute = path.partition(":")
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise _missing(cmd_name, error) from None
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            # Some verbs import what they need only as they run.
            raise _missing(ctx.invoked_subcommand, error) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            import difflib

            close = difflib.get_close_matches(args[0], VERBS, n=1)
            if not close:
                raise
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {close[0]!r}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, line) for verb, (_, _, line) in VERBS.items()])


def _missing(verb: str | None, error: ModuleNotFoundError) -> Exception:
    """What a user reads who has installed pi0q without what the verb needs; the error itself where it is ours."""
    extra, name = VERBS[verb][1] if verb in VERBS else "", error.name or ""
    if not extra or name.startswith("pi0q"):
        return error
    return UsageError(
        f"`pi0q {verb}` needs {name.partition('.')[0]}, which is not installed here.\n"
        f"Install it with: pip install 'pi0q[{extra}]'"
    )


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"pi0q {version('pi0q')}")
        ctx.exit()


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def root() -> None:
    """Train robot policies on rented GPUs: submit a YAML, get verified checkpoints back.

    \b
      pi0q up                        a queue, a worker and Flower on this machine
      pi0q submit grab_box.yaml      put a training into the queue
      pi0q watch ID                  see it run

    PI0Q_REDIS_URL says where the queue is. An ID may be shortened to a unique prefix or be the job's name.
    Exit codes: 0 done, 1 failed, 2 wrong usage or job file, 3 not found, 4 the queue can't be reached.
    """


def main(args: list[str] | None = None) -> Any:
    """Runs the command; what a user can mend is told in words and never as a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal may lack a character of a job's name: one of GBK or Latin-1.
            stream.reconfigure(errors="backslashreplace")
    try:
        return root.main(args, prog_name="pi0q")
    except Pi0qError as error:
        _fail(error)
    except Exception as error:
        # redis is imported by the verbs that need it, never here.
        if type(error).__module__.partition(".")[0] != "redis":
            raise
        from pi0q.queue import settings
        from pi0q.queue.connection import explain

        _fail(explain(error, settings.load()))  # type: ignore[arg-type]


def _fail(error: Pi0qError) -> None:
    click.echo(f"pi0q: {error}", err=True)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
