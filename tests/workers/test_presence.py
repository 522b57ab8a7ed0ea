"""What a box remembers of its server, and how a worker begins anew."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest

from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers import again, identity
from pi0q.workers.presence import NameTaken, Presence


@pytest.fixture
def settings(chosen: Settings) -> Settings:
    return replace(chosen, box="box-a")


def presence(settings: Settings, store: Store) -> Presence:
    return Presence(settings, store, identity.read(settings))


def test_it_is_behind_until_it_has_caught_up(settings: Settings, store: Store) -> None:
    first = presence(settings, store)
    first.announce({"status": "ready"})
    assert first.behind and not first.file.exists(), "killed now, the next one must catch up again"
    first.caught_up()
    first.announce({"status": "ready"})
    assert not first.behind and first.file.exists()


def test_older_data_are_noticed_also_after_a_restart(settings: Settings, store: Store) -> None:
    one = presence(settings, store)
    for _ in range(3):
        one.announce({"status": "ready"})
        one.caught_up()
    store.client.hset(f"{store.prefix}server", "beats", 1)
    later = presence(settings, store)
    assert later.announce({"status": "ready"}).older
    later.caught_up()
    assert later.announce({"status": "ready"}).older is False, "what was said once is known"
    assert later.behind is False
    store.client.hset(f"{store.prefix}server", "beats", 1)
    assert later.announce({"status": "ready"}).older and later.behind


def test_another_server_process_is_noticed(settings: Settings, store: Store) -> None:
    one = presence(settings, store)
    one.announce({"status": "ready"})
    one.caught_up()
    one._server = "that of before its restart"
    one.announce({"status": "ready"})
    assert one.behind


def test_a_full_disk_does_not_silence_it(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one = presence(settings, store)
    one.file = one.file / "below" / "a file"
    one.announce({"status": "ready"})
    one.caught_up()
    assert one.behind is False


def test_a_damaged_memory_is_none(settings: Settings, store: Store) -> None:
    one = presence(settings, store)
    one.file.write_text("{")
    assert presence(settings, store).announce({"status": "ready"}).older is False


def test_a_name_of_another_is_not_written_over(settings: Settings, store: Store) -> None:
    presence(settings, store).announce({"status": "ready"})
    other = presence(replace(settings, home=settings.home / "other"), store)
    with pytest.raises(NameTaken, match="this worker takes nothing"):
        other.announce({"status": "stopped"})
    (known,) = store.boxes()
    assert known["status"] == "ready"


def test_lives_that_end_soon_come_ever_more_rarely() -> None:
    lives = list(accumulate(range(8), lambda life, _: life.after(1.0), initial=again.Lives().after(1.0)))
    assert [life.pause(2.0) for life in lives] == [2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert lives[-1].after(again.HEALTHY_SECONDS + 1).pause(2.0) == 2


def test_a_new_life_knows_the_earlier_ones_and_its_children_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[dict[str, str]] = []
    monkeypatch.setattr("os.execve", lambda path, argv, env: passed.append(env))
    lives = again.Lives(count=3, strangers={17: 1234})
    again.begin(lives)
    env = passed[0]
    assert again.earlier(env) == lives
    assert again.earlier(env) is None and again.VARIABLE not in env
