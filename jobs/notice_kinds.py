"""Kinds of messages to a person, as job files and settings name them."""

from __future__ import annotations

#: About a job, and about the queue as a whole.
OF_JOBS = ("started", "saved", "interrupted", "held", "finished", "failed", "cancelled")
OF_THE_QUEUE = ("box_lost", "box_back", "box_off", "queue_empty")
KINDS = (*OF_JOBS, *OF_THE_QUEUE)
#: Kinds that are sent where nobody chose.
USUAL = ("finished", "failed", "held", "box_lost", "box_off")
