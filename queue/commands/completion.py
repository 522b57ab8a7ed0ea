"""`pi0q completion` and `pi0q help`."""

from __future__ import annotations

import click

from pi0q.jobs.errors import UsageError

SHELLS = ("bash", "zsh", "fish")


@click.command(name="completion")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete verbs, options, job names and ids.

    \b
      eval "$(pi0q completion bash)"                                     in ~/.bashrc
      eval "$(pi0q completion zsh)"                                      in ~/.zshrc
      pi0q completion fish > ~/.config/fish/completions/pi0q.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    root = click.get_current_context().find_root().command
    if kind is None:
        raise UsageError(f"There is no completion for {shell}.")
    click.echo(kind(root, {}, "pi0q", "_PI0Q_COMPLETE").source())


@click.command(name="help")
@click.argument("verb", required=False)
def show_help(verb: str | None) -> None:
    """Show the help of a verb, or of pi0q."""
    ctx = click.get_current_context().find_root()
    root = ctx.command
    if verb is None:
        click.echo(root.get_help(ctx))
        return
    found = root.get_command(ctx, verb) if isinstance(root, click.Group) else None
    if found is None:
        raise UsageError(f"There is no verb {verb!r}; `pi0q --help` lists them.")
    click.echo(found.get_help(click.Context(found, info_name=verb, parent=ctx)))
