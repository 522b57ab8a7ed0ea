"""What a box remembers of its server."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pi0q.queue import box_fields
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store, heard
from pi0q.workers.agent import startup
from pi0q.workers.agent.box import Box
from pi0q.workers.agent.heartbeat import CopyFound, NameTaken, Registration
from pi0q.workers.host import identity


@pytest.fixture
def settings(chosen: Settings) -> Settings:
    return replace(chosen, box="box-a")


def registration(settings: Settings, store: Store) -> Registration:
    return Registration(settings, store, identity.read(settings))


def test_it_is_behind_until_it_has_caught_up(settings: Settings, store: Store) -> None:
    first = registration(settings, store)
    first.announce({"status": "ready"})
    assert first.behind and not first.file.exists(), "killed now, the next one must catch up again"
    first.caught_up()
    first.announce({"status": "ready"})
    assert not first.behind and first.file.exists()


def test_older_data_are_noticed_also_after_a_restart(settings: Settings, store: Store) -> None:
    one = registration(settings, store)
    for _ in range(3):
        one.announce({"status": "ready"})
        one.caught_up()
    store.client.hset(f"{store.prefix}server", "beats", 1)
    later = registration(settings, store)
    assert later.announce({"status": "ready"}).older
    later.caught_up()
    assert later.announce({"status": "ready"}).older is False, "what was said once is known"
    assert later.behind is False
    store.client.hset(f"{store.prefix}server", "beats", 1)
    assert later.announce({"status": "ready"}).older and later.behind


def test_another_server_process_is_noticed(settings: Settings, store: Store) -> None:
    one = registration(settings, store)
    one.announce({"status": "ready"})
    one.caught_up()
    one._server = "that of before its restart"
    one.announce({"status": "ready"})
    assert one.behind


def test_a_full_disk_does_not_silence_it(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one = registration(settings, store)
    one.file = one.file / "below" / "a file"
    one.announce({"status": "ready"})
    one.caught_up()
    assert one.behind is False


def test_a_damaged_memory_is_none(settings: Settings, store: Store) -> None:
    one = registration(settings, store)
    one.file.write_text("{")
    assert registration(settings, store).announce({"status": "ready"}).older is False


def test_a_name_of_another_is_not_written_over(settings: Settings, store: Store) -> None:
    registration(settings, store).announce({"status": "ready"})
    other = registration(replace(settings, home=settings.home / "other"), store)
    with pytest.raises(NameTaken, match="this worker claims nothing"):
        other.announce({"status": "stopped"})
    (known,) = store.boxes()
    assert known["status"] == "ready"


def test_a_reader_asks_for_every_field_that_a_box_announces(box: Box) -> None:
    announced = box.heartbeat._fields(box.context.measure(), (), "ready").keys()
    assert announced <= {*box_fields.ASKED}


def test_the_original_says_everything_again_where_a_copy_had_its_entry(settings: Settings, store: Store) -> None:
    who = identity.read(settings)
    original, copy = (Registration(settings, store, replace(who, boot=boot)) for boot in ("first", "copy"))
    original.announce({"status": "ready", "note": "mine", "slots": 2})
    assert copy.announce({"status": "ready", "note": "the copy's", "slots": 1}).displaced
    original.announce({"status": "ready", "note": "mine", "slots": 2})
    (known,) = store.boxes()
    assert (known["note"], known["slots"], known["boot"]) == ("mine", "2", "first")
    with pytest.raises(CopyFound, match="A copy of this box runs: box-a is up on another machine"):
        copy.announce({"status": "ready"})


def entering(settings: Settings, store: Store, boot: str) -> Box:
    box = Box(settings, store, slots=1)
    box.context.identity = replace(box.context.identity, boot=boot)
    box.registration.identity = box.context.identity
    return box


def test_a_quick_restart_does_not_wait(settings: Settings, store: Store) -> None:
    """The former boot's last heartbeat is seconds old, and nobody listens for it any more."""
    entering(settings, store, "first").announce()

    def wait(seconds: float) -> None:
        raise AssertionError(f"waited for {seconds} s")

    startup.enter(entering(settings, store, "second"), patient=False, wait=wait)
    assert store.boot_of("box-a") == "second"


@pytest.mark.parametrize("patient", [False, True])
def test_a_copy_asks_the_original_before_it_takes_anything(settings: Settings, store: Store, patient: bool) -> None:
    original, copy = (entering(settings, store, boot) for boot in ("first", "copy"))
    original.announce()
    with store.subscribe("wake:box-a") as words:

        def answers(seconds: float) -> None:
            if "" in set(heard(words, 10.0)):
                original.announce()

        with pytest.raises(CopyFound):
            startup.enter(copy, patient=patient, wait=answers)
    assert store.boot_of("box-a") == "first"


def test_a_connection_of_a_dead_worker_holds_up_nobody_for_good(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has not yet noticed that the machine at the other end is gone."""
    monkeypatch.setattr(startup, "ANSWER_SECONDS", 0.3)
    entering(settings, store, "first").announce()
    with store.subscribe("wake:box-a"):
        startup.enter(entering(settings, store, "second"), patient=False)
    assert store.boot_of("box-a") == "second"
