"""`pi0q mcp`."""

from __future__ import annotations

import click


@click.command()
def mcp() -> None:
    """Let an assistant look at the queue and submit jobs, by the Model Context Protocol on standard input and output.

    It can read jobs, logs, curves and boxes, and submit; it cancels and changes nothing. It runs only while it is
    started, with the rights of PI0Q_REDIS_URL. An assistant's settings name the command: pi0q mcp
    """
    from pi0q.ops.mcp.server import build
    from pi0q.queue.client import Queue

    build(Queue()).run("stdio")
