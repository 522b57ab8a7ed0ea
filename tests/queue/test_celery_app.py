from __future__ import annotations

from celery import Celery

from pi0q.queue import celery_app as apps
from pi0q.queue import celery_message
from pi0q.queue.settings import Settings


def queues(app: Celery) -> set[str]:
    return set(app.amqp.queues.consume_from)


def test_a_box_consumes_its_own_queue_and_nothing_else(chosen: Settings) -> None:
    assert queues(apps.make(chosen, box="autodl-1")) == {"box.autodl-1"}


def test_nothing_but_json_comes_in(chosen: Settings) -> None:
    conf = apps.make(chosen).conf
    assert conf.accept_content == ["json"]
    assert conf.task_serializer == conf.event_serializer == "json"


def test_a_broken_connection_neither_repeats_nor_ends_a_run(chosen: Settings) -> None:
    conf = apps.make(chosen, box="b").conf
    assert conf.task_acks_late is False
    assert conf.worker_cancel_long_running_tasks_on_connection_loss is False
    assert conf.broker_connection_max_retries is None
    assert conf.broker_transport_options["visibility_timeout"] > 7 * 86400


def test_a_claim_is_never_left_in_the_queue_for_a_slot_that_is_free(chosen: Settings) -> None:
    """Celery's limits pause the consumer, and it looks again only up to a second after a slot is free."""
    conf = apps.make(chosen, box="b").conf
    assert conf.worker_disable_prefetch is False
    assert conf.worker_prefetch_multiplier == 0


def test_a_dead_line_is_noticed(chosen: Settings) -> None:
    options = apps.make(chosen).conf.broker_transport_options
    assert options["socket_timeout"] and options["health_check_interval"] and options["socket_connect_timeout"]


def test_its_priorities_are_those_of_the_messages(chosen: Settings) -> None:
    options = apps.make(chosen).conf.broker_transport_options
    assert options["priority_steps"] == sorted(celery_message.STEPS.values())
    assert options["global_keyprefix"] == chosen.prefix


def test_every_setting_is_one_that_celery_knows(chosen: Settings) -> None:
    """A misspelt one would be taken and ignored."""
    app = apps.make(chosen, box="b")
    assert set(app.conf.changes) <= set(Celery("bare", set_as_current=False).conf)


def test_it_does_not_become_the_app_of_the_process(chosen: Settings) -> None:
    from celery import _state

    before = _state._get_current_app()
    apps.make(chosen)
    assert _state._get_current_app() is before
