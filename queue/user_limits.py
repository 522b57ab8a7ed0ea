"""What one user of the server may have waiting: who asks, and what a refusal says. submit.lua counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pi0q.jobs.errors import Pi0qError

if TYPE_CHECKING:
    from pi0q.queue.server_client import Client

#: How a script's answer begins that is no job's id.
OVER = "over:"
MIB = 2**20


def user_of(client: Client) -> str:
    """Return as whom a client asks; "" on a server without users."""
    address = getattr(client, "address", None)
    if address is not None:
        return str(address.user)
    pool: Any = getattr(client, "connection_pool", None)
    return str(pool.connection_kwargs.get("username") or "") if pool is not None else ""


def check(answer: str, user: str) -> str:
    """Return the id in an answer of submit.lua. Raises Pi0qError for a user that has too much waiting."""
    if not answer.startswith(OVER):
        return answer
    jobs, size, most_jobs, most_size = map(int, answer.removeprefix(OVER).split(":"))
    raise Pi0qError(
        f"{user} has {jobs} waiting jobs of {size / MIB:.1f} MiB; its limit is {most_jobs} jobs and "
        f"{most_size / MIB:.0f} MiB. Nothing was submitted.\n"
        "Fix: wait until some of them run, pi0q cancel ID of some, or ask whoever runs the queue for a higher limit "
        f"(pi0q server limit {user} --jobs {2 * most_jobs}, on its machine)"
    )
