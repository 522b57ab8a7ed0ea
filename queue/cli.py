"""The `pi0q` command. Its root knows the verbs by dotted name only, so that each pays just for itself."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import sys
from importlib import import_module
from typing import Any

import click

from pi0q.jobs.errors import Pi0qError, UsageError
from pi0q.jobs.printable import printable

#: verb -> (where it is, the extra that brings what it needs, one line of help). The order is that of the help.
VERBS: dict[str, tuple[str, str, str]] = {
    "submit": ("pi0q.queue.commands.submit:submit", "", "Queue a training."),
    "import": ("pi0q.queue.commands.import_:import_", "worker", "Make a job file of a lerobot-train command line."),
    "ls": ("pi0q.queue.commands.ls:ls", "", "List jobs, one a line."),
    "show": ("pi0q.queue.commands.show:show", "", "Show everything about one job."),
    "open": (
        "pi0q.queue.commands.open_:open_",
        "",
        "Open a job's WandB or SwanLab run, or its web page, in the browser.",
    ),
    "why": ("pi0q.queue.commands.why:command", "", "Why a job is where it is, what it needs, what would help."),
    "get": ("pi0q.queue.commands.get:get", "", "Print the job file of a job."),
    "diff": ("pi0q.queue.commands.get:diff", "", "Print the settings that two jobs have different."),
    "report": ("pi0q.queue.commands.report:report", "", "Write an archive about a failed job, for an issue."),
    "logs": ("pi0q.queue.commands.logs:logs", "", "The last lines of a job's training log."),
    "watch": ("pi0q.queue.commands.watch:watch", "", "Follow one job, or all, live."),
    "top": ("pi0q.ops.top.cli:top", "top", "The fleet on one live page: cards, jobs, queue."),
    "checkpoint": ("pi0q.queue.commands.checkpoint:checkpoint", "", "Save a checkpoint of a running job now."),
    "cancel": ("pi0q.queue.commands.cancel:cancel", "", "End a job for good, waiting or running."),
    "retry": ("pi0q.queue.commands.retry:retry", "", "Resume a job that failed or was cancelled."),
    "hold": ("pi0q.queue.commands.hold:hold", "", "Keep a job out of the queue; a running one saves and stops."),
    "release": ("pi0q.queue.commands.hold:release", "", "End a hold: the job is queued again."),
    "bump": ("pi0q.queue.commands.bump:bump", "", "Give a job another priority."),
    "cost": ("pi0q.queue.commands.cost:cost", "", "What jobs cost: card-hours and money, by user, job or box."),
    "prune": ("pi0q.queue.commands.prune:prune", "", "Remove the records of old ended jobs from the server."),
    "boxes": ("pi0q.queue.commands.boxes:boxes", "", "The GPU boxes, what they have free and run."),
    "drain": ("pi0q.queue.commands.drain:drain", "", "Keep a box from new jobs, to switch it off or give it back."),
    "worker": ("pi0q.workers.agent.cli:worker", "worker", "Make this machine a box: claim and run jobs."),
    "cache": ("pi0q.workers.staging.cli:cache", "worker", "List, fetch, remove or pin caches and old runs here."),
    "up": ("pi0q.ops.local.cli:up", "worker,server,flower", "Server, worker, web page and Flower here in one go."),
    "doctor": ("pi0q.ops.doctor:doctor", "", "Diagnose problems and suggest fixes."),
    "box": ("pi0q.ops.box.cli:box", "", "Make this machine a box that starts its worker by itself."),
    "server": ("pi0q.ops.server.cli:server", "server", "Users of the queue's server and their roles."),
    "web": ("pi0q.ops.web.cli:web", "web", "The web page: boxes, cards, jobs, curves, queue."),
    "flower": ("pi0q.ops.local.cli:flower", "flower", "Flower, Celery's view of the queue, on its own."),
    "key": ("pi0q.queue.commands.key:key", "sign", "Sign jobs; say whose jobs and checkpoints a box trusts."),
    "notify": ("pi0q.ops.notify.cli:notify", "notify", "Send messages about jobs and boxes to your phone."),
    "power": ("pi0q.ops.power.cli:power", "", "Start switched-off AutoDL boxes while jobs wait for them."),
    "search": ("pi0q.ops.search.cli:search", "search", "Propose the trials of sweeps that search (kind: tpe)."),
    "mcp": ("pi0q.ops.mcp.cli:mcp", "mcp", "Let an assistant look at the queue and submit jobs."),
    "completion": ("pi0q.queue.commands.completion:completion", "", "Make a shell complete verbs, names and ids."),
    "help": ("pi0q.queue.commands.completion:show_help", "", "Show the help of a verb."),
}
#: Verbs of other tools -> what they are here.
ELSEWHERE = {
    **dict.fromkeys(("ps", "list", "jobs", "queue", "squeue", "qstat", "history"), "ls"),
    **dict.fromkeys(("htop", "nvtop"), "top"),
    **dict.fromkeys(("status", "describe", "info", "inspect"), "show"),
    **dict.fromkeys(("stop", "kill", "rm", "remove", "delete", "abort", "scancel", "qdel"), "cancel"),
    **dict.fromkeys(("pause", "suspend"), "hold"),
    **dict.fromkeys(("unpause", "continue", "unhold"), "release"),
    **dict.fromkeys(("resume", "restart", "rerun"), "retry"),
    **dict.fromkeys(("run", "launch", "add", "enqueue", "sbatch", "srun", "qsub"), "submit"),
    **dict.fromkeys(("nodes", "workers", "sinfo", "gpus", "machines"), "boxes"),
    **dict.fromkeys(("log", "tail"), "logs"),
    **dict.fromkeys(("priority", "nice", "renice"), "bump"),
    **dict.fromkeys(("clean", "gc"), "prune"),
    "follow": "watch",
    "save": "checkpoint",
    "export": "get",
    **dict.fromkeys(("ui", "page", "dashboard"), "web"),
}

#: Verbs that read a little and are over.
BRIEF = frozenset({"ls", "show", "why", "boxes", "submit", "get", "diff", "cancel", "hold", "release", "bump"})
#: What a full disk or a terminal that is gone makes of a write to standard output.
UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


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

            meant = ELSEWHERE.get(args[0]) or next(iter(difflib.get_close_matches(args[0], VERBS, n=1)), None)
            if not meant:
                raise
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {meant!r}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, line) for verb, (_, _, line) in VERBS.items()])


def _missing(verb: str | None, error: ModuleNotFoundError) -> Exception:
    """What a user reads who has installed pi0q without what the verb needs; the error itself where it is ours."""
    extra, name = VERBS[verb][1] if verb in VERBS else "", error.name or ""
    if not extra or name.startswith("pi0q"):
        return error
    return UsageError(
        f"`pi0q {verb}` needs {name.partition('.')[0]}, which is not installed here.\nFix: pip install 'pi0q[{extra}]'"
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

    PI0Q_REDIS_URL says where the queue is. An ID may be shortened to its first four characters, or be the
    job's name. Exit codes: 0 done, 1 failed, 2 wrong usage or job file, 3 not found, 4 the queue can't be reached.
    """


def main(args: list[str] | None = None) -> Any:
    """Run the command; an error that a user can fix is printed as a message, never as a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal may lack a character of a job's name: one of GBK or Latin-1.
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if args is None else args
    if args is None and words[:1] and words[0] in BRIEF and "--watch" not in words:
        # What such a command makes lives until its end: looking for what does not costs 4 % of its time.
        gc.disable()
    as_json = "--json" in words[: words.index("--") if "--" in words else None]
    try:
        return root.main(args, prog_name="pi0q", standalone_mode=not as_json)
    except Pi0qError as error:
        _fail(error, as_json=as_json)
    except click.ClickException as error:
        # Only with --json: click tells it itself otherwise.
        _fail(UsageError(error.format_message()), as_json=as_json)
    except click.Abort:
        sys.exit(1)
    except OSError as error:
        if error.errno not in UNWRITABLE or error.filename is not None:
            raise
        _no_output(error)
    except Exception as error:
        # The clients of the server are imported by the verbs that need them, never here.
        if not type(error).__module__.startswith(("redis.", "pi0q.queue.resp_protocol")):
            raise
        from pi0q.queue import settings
        from pi0q.queue.connection import explain

        _fail(explain(error, settings.load()), as_json=as_json)  # type: ignore[arg-type]


def _fail(error: Pi0qError, *, as_json: bool) -> None:
    """Tell an error on standard error, with --json on standard output too, and exit with its code."""
    if as_json:
        import json

        click.echo(json.dumps(error.as_answer(), indent=2))
    click.echo(f"pi0q: {printable(str(error))}", err=True)
    sys.exit(error.exit_code)


def _no_output(error: OSError) -> None:
    """Say that standard output took nothing more, and exit; what lies in its buffer must not fail once more."""
    with contextlib.suppress(OSError):
        click.echo(
            f"pi0q: Standard output can't be written: {error.strerror}. What the command did, it did.\n"
            "Fix: make room there or print to another place; `pi0q ls` shows what became of the jobs.",
            err=True,
        )
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(1)


if __name__ == "__main__":
    main()
