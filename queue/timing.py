"""How long things may take. All of it follows from the lease, so that a test or a nervous user shrinks one number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds, each."""

    #: How long a claim holds without being renewed.
    lease: float
    #: After the last renewal: a runner that could not renew since then saves and stops.
    fence: float
    #: Between two renewals while there is nothing to tell.
    renew: float
    #: Between two looks of a box that nothing wakes, and between two words that it lives.
    beat: float
    #: Between two sweeps, whoever makes them.
    sweep: float
    #: After which a claimed job that nothing started is taken to have lost its message.
    stalled: float
    #: After which a silent box counts as unreachable and no longer keeps its name from another.
    silent: float
    #: That a server which comes back, perhaps with older data, waits for the boxes to say what they hold.
    claim_holdoff: float
    #: That one answer of the server may take: a dead NAT mapping hangs a client without it (kombu and redis-py alike).
    socket: float
    #: Between two tries to reach a server that is away.
    retry: float


def timing(lease: float, fence: float) -> Timing:
    """The times for a lease in seconds and the part of it after which a runner that can't renew it stops.

    With the lease of 600 s each is at its most, as measured for links to rented boxes (10 s between two
    renewals, 5 s for an answer); a shorter lease shortens them so that several tries fit into it.
    """
    return Timing(
        lease=lease,
        fence=lease * fence,
        renew=min(10.0, lease / 10),
        beat=min(10.0, lease / 6),
        sweep=min(30.0, lease / 4),
        stalled=min(30.0, lease / 4),
        silent=min(60.0, lease / 2),
        claim_holdoff=min(60.0, lease / 2),
        socket=max(0.5, min(5.0, lease / 12)),
        retry=min(2.0, lease / 12),
    )
