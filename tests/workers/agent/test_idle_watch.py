"""A box that switches itself off: on a real queue, with a clock of its own and a list instead of the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.checkpoint import MANIFEST
from pi0q.jobs.state import State
from pi0q.queue import box_status
from pi0q.queue.idle_outlook import STATUS_FILE
from pi0q.queue.idle_policy import ONLY_COPIES
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.agent.box import Box
from pi0q.workers.agent.idle_watch import IdleWatch, Surroundings
from pi0q.workers.idle.command import CannotSwitchOff
from pi0q.workers.runs.postrun_tasks import PostrunTask, PostrunTasks
from pi0q.workers.runs.run_directory import RunDirectory
from tests.conftest import Command
from tests.workers.conftest import a_box, at_work, submit

AFTER, GRACE, STEP = 100.0, 50.0, 10.0
OFF = "/bin/off"


@dataclass
class World:
    """Stands in for time, for people and for the command that switches the machine off."""

    now: float = 0.0
    people: list[str] = field(default_factory=list)
    called: list[list[str]] = field(default_factory=list)
    #: What happens when the box is about to leave.
    before_command: Callable[[], object] = lambda: None
    #: How the command fails; "" where it works.
    fails: str = ""

    def choose(self, words: Sequence[str]) -> list[str]:
        self.before_command()
        return list(words)

    def switch_off(self, words: Sequence[str], home: Path) -> None:
        self.called.append(list(words))
        if self.fails:
            raise CannotSwitchOff(self.fails)

    def surroundings(self) -> Surroundings:
        return Surroundings(
            clock=lambda: self.now,
            people=lambda: self.people,
            choose=self.choose,
            switch_off=self.switch_off,
            going_down=0.0 if self.fails == "stays on" else 0.01,
        )


@dataclass
class Story:
    """A box without a job, its world, and how it goes on."""

    box: Box
    store: Store
    world: World

    def go_on(self, seconds: float) -> None:
        """Let time pass, as the agent does: a look each beat."""
        end = self.world.now + seconds
        while self.world.now < end:
            self.world.now += STEP
            self.box.idle.look()

    @property
    def announced(self) -> dict[str, str]:
        return next(one for one in self.store.boxes() if one["name"] == "box-a")

    @property
    def text(self) -> str:
        return box_status.idle_text({**self.announced, "seen_seconds": "0"}, 1e9)


def a_story(settings: Settings, store: Store, **more: Any) -> Story:
    chosen = replace(settings, idle_after=AFTER, idle_grace=GRACE, idle_do=(OFF, "now"), **more)
    box, world = a_box(chosen, store), World()
    box.idle = IdleWatch(
        box.context, box.registration, box.claims, lambda status: box.announce(status=status), world.surroundings()
    )
    box.announce()
    box.recover(at_start=True)
    story = Story(box=box, store=store, world=world)
    box.idle.look()
    return story


@pytest.fixture
def story(chosen: Settings, store: Store, roomy: None) -> Story:
    return a_story(chosen, store)


def test_it_counts_says_so_waits_and_calls_the_command_once(story: Story, call: Command) -> None:
    assert story.text == "switches itself off in 3 min"
    assert "switches itself off in 3 min" in call("boxes").stdout
    story.go_on(AFTER)
    assert json.loads(story.announced["idle"])["phase"] == "leaving" and story.world.called == []
    assert story.announced["status"] == "ready"
    story.go_on(GRACE - STEP)
    assert story.world.called == []
    seen = dict[str, str]()

    def look() -> None:
        seen.update(story.announced)

    story.world.before_command = look
    story.box.context.stopping.set()
    # What a worker's last word is when the machine goes down under it.
    story.go_on(STEP)
    assert story.world.called == [[OFF, "now"]]
    story.box.announce(status="stopped")
    assert seen["status"] == "ready" and story.announced["status"] == "stopped"
    assert story.text.startswith("off by itself since 2001-09-0")
    shown = json.loads(call("boxes", "--json").stdout)
    assert shown[0]["status"] == "stopped" and shown[0]["idle"]["phase"] == "off"
    assert "off by itself since" in call("boxes", "show", "box-a").stdout


def test_a_job_that_comes_in_the_grace_stops_it(story: Story) -> None:
    story.go_on(AFTER)
    submit(story.store)
    story.go_on(3 * AFTER)
    assert story.world.called == [] and story.text == "stays on: job waits and fits"


def test_a_job_that_comes_in_the_last_moment_stops_it_too(story: Story) -> None:
    story.world.before_command = lambda: submit(story.store)
    story.go_on(AFTER + GRACE)
    assert story.world.called == []
    assert (story.announced["status"], story.text) == ("ready", "stays on: job waits and fits")


def test_jobs_that_do_not_fit_or_are_refused_for_good_do_not_keep_it_on(story: Story) -> None:
    submit(story.store, gib=500)
    submit(story.store, gpus=7)
    submit(story.store, more='box: ["box-z"]')
    story.go_on(AFTER)
    assert story.text == "switches itself off in 50 s"


def test_a_driver_that_fails_does_not_make_a_box_useless(story: Story) -> None:
    submit(story.store)
    story.box.context.settings = replace(story.box.context.settings, fake_gpus=())
    assert story.box.context.measure().gpus == ()
    story.go_on(3 * AFTER)
    assert story.world.called == [] and story.text == "stays on: job waits and fits"


def test_a_job_that_starts_soon_is_waited_for(story: Story) -> None:
    far = submit(story.store, start_in=2 * 86400)
    submit(story.store, gib=500, start_in=600)
    assert story.store.get(far).state is State.WAITING
    story.go_on(AFTER)
    assert story.text == "switches itself off in 50 s", "one comes in two days, the other does not fit"
    submit(story.store, start_in=3000)
    story.go_on(3 * AFTER)
    assert story.world.called == [] and story.text == "stays on: job waits and fits"


def test_a_drained_box_is_needed_for_no_waiting_job(story: Story) -> None:
    submit(story.store)
    story.go_on(STEP)
    assert story.text == "stays on: job waits and fits"
    story.store.drain("box-a", "drain", text="for the night")
    story.box.announce()
    story.go_on(AFTER + STEP)
    assert story.text == "switches itself off in 50 s"


def test_a_live_runner_keeps_it_on_whatever_the_queue_knows(story: Story) -> None:
    at_work(story.box, "0123456789ab")
    story.go_on(3 * AFTER)
    assert story.world.called == [] and story.text == "stays on: 0123456789ab runs here"


def test_a_queue_that_does_not_answer_sets_it_back(story: Story) -> None:
    story.go_on(AFTER)
    story.box.idle.unreachable()
    told = json.loads((story.box.context.settings.home / STATUS_FILE).read_text())
    assert (told["phase"], told["why"]) == ("needed", ["the queue does not answer"])
    story.go_on(AFTER + STEP)
    assert story.world.called == [] and story.text == "switches itself off in 50 s"


def test_a_queue_that_has_just_come_back_is_not_believed(story: Story) -> None:
    story.box.registration.behind = True
    story.go_on(3 * AFTER)
    assert story.world.called == [] and story.text == "stays on: the queue's server came back a moment ago"


def test_a_pending_push_keeps_it_on_until_it_is_done(story: Story) -> None:
    run = RunDirectory(story.box.context.settings.runs / submit_and_cancel(story.store))
    run.make()
    tasks = PostrunTasks(run.path)
    tasks.add(push := PostrunTask(kind="push", epoch=1, box="box-a"))
    story.go_on(3 * AFTER)
    assert story.world.called == [] and story.text == "stays on: 1 push pending (job)"
    tasks.change(push, state="done")
    story.go_on(AFTER + STEP)
    assert story.text == "switches itself off in 50 s"


def submit_and_cancel(store: Store) -> str:
    job = submit(store)
    store.cancel(job, text="")
    return job


def test_an_only_copy_keeps_it_on_unless_that_is_allowed(chosen: Settings, store: Store, roomy: None) -> None:
    job = submit_and_cancel(store)
    (directory := RunDirectory(chosen.runs / job).checkpoints / "000010").mkdir(parents=True)
    (directory / MANIFEST).write_text("{}")
    story = a_story(chosen, store)
    assert story.text == "stays on: it has the only copy of checkpoints of job"
    allowed = a_story(chosen, store, idle_allow=(ONLY_COPIES,))
    assert allowed.text == "switches itself off in 3 min"


def test_a_person_or_something_else_on_a_card_keeps_it_on(chosen: Settings, store: Store, roomy: None) -> None:
    story = a_story(chosen, store)
    story.world.people.append("pts/0")
    story.go_on(3 * AFTER)
    assert story.world.called == [] and story.text == "stays on: a person is logged in on pts/0"
    story.world.people.clear()
    cards = ({"name": "simulated", "total_gib": 80, "used_gib": 12},)
    story.box.context.settings = replace(story.box.context.settings, fake_gpus=cards)
    story.go_on(STEP)
    assert story.text == "stays on: something else uses GPU 0 (12.0 GiB)"


def test_it_never_leaves_where_the_queue_s_server_runs(story: Story) -> None:
    (story.box.context.settings.home / "up.json").write_text("{}")
    story.go_on(3 * AFTER)
    assert story.world.called == [] and story.text == "stays on: the queue's server runs on this machine"


def test_keep_on_stops_it_for_a_time_and_can_be_ended(story: Story, call: Command) -> None:
    story.go_on(AFTER)
    kept = call("box", "keep-on", "2h", "--box", "box-a")
    assert kept.stdout == "box-a stays on for 2 h at least. End that earlier: pi0q box keep-on off --box box-a\n"
    story.go_on(3 * AFTER)
    assert story.world.called == [] and story.text.startswith("stays on: a person keeps it on for another 2 h")
    assert "may switch itself off again" in call("box", "keep-on", "off", "--box", "box-a").stdout
    story.go_on(AFTER + STEP)
    assert story.text == "switches itself off in 50 s"


def test_keep_on_refuses_what_it_cannot_do(store: Store, call: Command) -> None:
    wrong = call("box", "keep-on", "soon")
    assert wrong.returncode == 2 and "like 20min or 2h, not 'soon'" in wrong.stderr and "Traceback" not in wrong.stderr
    absent = call("box", "keep-on", "2h", "--box", "box-z")
    assert absent.returncode == 3 and "Fix: pi0q box keep-on 2h --box NAME" in absent.stderr
    assert not store.client.exists(f"{store.prefix}box:box-z")


def test_another_machine_of_the_name_does_not_inherit_that_it_is_kept_on(story: Story) -> None:
    story.store.keep_on("box-a", 7200)
    story.box.announce(status="stopped")
    assert story.store.kept_on_seconds("box-a") > 7100
    assert story.store.announce_box("box-a", "another id", {"status": "ready"}) is not None
    assert story.store.kept_on_seconds("box-a") == 0.0


@pytest.mark.parametrize("fails", ["/bin/off ended with exit code 1: not allowed", "stays on"])
def test_a_machine_that_stays_on_takes_jobs_again_and_says_so(
    chosen: Settings, store: Store, roomy: None, fails: str
) -> None:
    story = a_story(chosen, store)
    story.world.fails = fails
    story.go_on(AFTER + GRACE)
    assert story.world.called == [[OFF, "now"]] and story.announced["status"] == "ready"
    assert story.text == f"could not switch itself off: {fails} · switches itself off in 3 min"
    story.go_on(AFTER - STEP)
    assert len(story.world.called) == 1, "it is tried again only after the whole time"


def test_a_box_without_the_setting_says_nothing_and_looks_at_nothing(
    chosen: Settings, store: Store, roomy: None
) -> None:
    box = a_box(chosen, store)
    box.announce()
    box.idle.look()
    box.idle.unreachable()
    (known,) = store.boxes()
    assert known["idle"] == "" and not (chosen.home / STATUS_FILE).exists()


def test_a_worker_that_stops_for_another_reason_is_not_off_by_itself(story: Story) -> None:
    story.go_on(AFTER)
    story.box.announce(status="stopped")
    assert story.announced["idle"] == "" and story.text == ""
