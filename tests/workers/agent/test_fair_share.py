"""A box claims by the cards that each user has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pi0q.jobs.state import State
from pi0q.jobs.transition import cancelled
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.agent.box import Box
from tests.workers.conftest import a_box, submit


def test_a_box_gives_a_free_card_to_the_user_with_fewer(
    chosen: Settings, store: Store, roomy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = a_box(replace(chosen, fair_share=True), store)
    (chosen.home / "datasets/d/meta").mkdir(parents=True)
    (chosen.home / "datasets/d/meta/info.json").write_text("{}")

    def submitted(user: str) -> str:
        monkeypatch.setattr("pi0q.queue.submission.user", lambda: user)
        return submit(store)

    running = [submitted("a"), submitted("a")]
    look(box, store)
    first, mine = submitted("a"), submitted("b")
    look(box, store)
    assert dict(store.plan().held or {}) == {"a": 2}

    assert store.move(running[0], cancelled(store.get(running[0]).epoch, text="it ended"))
    look(box, store)
    assert [store.get(job).state for job in (first, mine)] == [State.QUEUED, State.CLAIMED]


def look(box: Box, store: Store) -> None:
    """The box looks at the queue and announces itself; a plan is made."""
    store.client.delete(f"{store.prefix}planned", f"{store.prefix}planned:again")
    for call in store.client.zrange(f"{store.prefix}calls", 0, -1):
        store.client.zadd(f"{store.prefix}calls", {str(call): 1})
    store.call_again()
    box.announce()
    box.claims.claim()
    box.announce()
