"""What the server keeps of each claim, and what `pi0q cost`, `show` and `box price` make of it."""

from __future__ import annotations

import json
import socket

import pytest

from pi0q.jobs import cost
from pi0q.jobs.cost import Money, Price
from pi0q.jobs.errors import SpecError
from pi0q.jobs.outcome import Reason
from pi0q.jobs.spec import Spec, parse
from pi0q.jobs.transition import ended
from pi0q.queue.retention import Retention
from pi0q.queue.store import Store
from pi0q.queue.submission import fields_of
from pi0q.workers.host.identity import slug
from tests.conftest import Command, JobDriver
from tests.queue.test_placement import announce, box


def test_each_claim_is_kept_with_its_cards_and_price(driver: JobDriver, store: Store) -> None:
    announce(store, "box-a", box((80, 80), (80, 80)))
    store.set_price("box-a", Price(per_hour=3600.0, currency="CNY"))
    job = driver.submit()
    epoch = driver.run(job)
    store.move(job, ended(store.get(job), epoch, Reason.RUNNER_LOST, "x"))
    epoch = driver.run(job)
    first, second = store.job_holds(job)
    assert (first.box, first.box_cards, first.after, first.before) == ("box-a", 2, "queued", 0)
    assert (second.after, second.before) == ("running", 1), "the one that goes on"
    assert first.from_ms <= first.ran_ms <= first.to_ms <= second.from_ms and first.price == second.price
    assert [one.job for one in store.holds()] == [job, job]
    store.move(job, ended(store.get(job), epoch, Reason.FINISHED, "x"))
    assert [one.after for one in store.job_holds(job)] == ["queued", "succeeded"]
    assert store.job_holds(job) == store.holds()


def test_sums_outlive_the_job(driver: JobDriver, store: Store) -> None:
    announce(store, "box-a", box((80, 80)))
    job = driver.submit()
    store.move(job, ended(store.get(job), driver.run(job), Reason.FINISHED, "x"))
    assert store.prune(Retention(days=None, jobs=0)) == [job]
    assert store.job_holds(job) == [] and [one.job for one in store.holds()] == [job]
    assert store.holds(store.now_ms() + 1) == []
    assert not store.client.keys(f"{store.prefix}holds:*")


def test_a_damaged_price_or_claim_is_left_out(driver: JobDriver, store: Store) -> None:
    announce(store, "box-a", box((80, 80)))
    store.client.hset(f"{store.prefix}prices", mapping={"box-a": '{"per_hour": "x"}', "b": "["})
    store.client.zadd(f"{store.prefix}held", {"not JSON": 5})
    job = driver.submit()
    store.move(job, ended(store.get(job), driver.run(job), Reason.FINISHED, "x"))
    assert store.prices() == {}
    assert [one.price for one in store.holds()] == [None]


def test_the_commands(call: Command, driver: JobDriver, store: Store) -> None:
    assert "No claim has ended yet" in call("cost").stdout
    announce(store, "box-a", box((80, 80)))
    assert call("box", "price", "5.98CNY", "--box", "box-a").stdout == "box-a costs 5.98 CNY an hour.\n"
    assert call("box", "price").stdout == "box-a  5.98 CNY an hour\n"
    # Without a name it is this machine's box, under the name that its worker takes.
    announce(store, here := slug(socket.gethostname()), box((80, 80)))
    assert call("box", "price", "2USD").stdout == f"{here} costs 2 USD an hour.\n"
    wrong = call("box", "price", "cheap", "--box", "box-a")
    assert wrong.returncode == 2 and "Fix: write it like 5.98CNY" in wrong.stderr
    absent = call("box", "price", "1USD", "--box", "box-z")
    assert absent.returncode == 3 and "There is no box box-z; nothing was changed." in absent.stderr
    job = driver.submit(name="train_a")
    store.move(job, ended(store.get(job), driver.run(job), Reason.FINISHED, "x"))
    said = call("cost", "--by", "job").stdout.splitlines()
    assert said[0].split() == ["COST", "LOST", "CARD-HOURS", "HOURS", "CLAIMS", "INTERRUPTED", "JOB"]
    assert f"train_a  {job}" in said[1] and said[-1].rstrip().endswith("all")
    told = json.loads(call("cost", "--by", "user", "--json").stdout)
    assert [one["user"] for one in told["groups"]] == ["ada@laptop"] and told["total"]["holds"] == 1
    assert json.loads(call("show", job, "--json").stdout)["cost"]["money"].keys() == {"CNY"}
    assert "hours without a GPU" in call("show", job).stdout
    assert call("box", "price", "none", "--box", "box-a").stdout == "box-a has no price any more.\n"
    assert call("cost", "--since", "soon").returncode == 2
    assert cost.words(cost.total(store.job_holds(job)))


def test_a_job_that_cost_its_budget_saves_and_is_held_and_a_release_allows_as_much_again(
    driver: JobDriver, store: Store
) -> None:
    announce(store, "box-a", box((80, 80)))
    store.set_price("box-a", Price(per_hour=10.0, currency="CNY"))
    job = driver.submit(budget=json.dumps({"amount": 5.0, "currency": "CNY"}))
    epoch = driver.run(job)
    driver.report(job, epoch, step=1)
    assert store.get(job).held == "" and store.get(job).wish == ""
    began(store, job, hours=0.6)
    assert driver.report(job, epoch, step=2) == "stop"
    held = store.get(job).held
    assert held == "because it cost 6.00 CNY: its budget is reached, and a release allows as much again"
    store.move(job, ended(store.get(job), epoch, Reason.STOPPED_BY_BOX, "saved and stopped"))
    assert str(store.get(job).state) == "waiting"
    store.release(job)
    epoch = driver.run(job)
    began(store, job, hours=0.4)
    driver.report(job, epoch, step=3)
    assert store.get(job).held == "", "4 of 5 more"
    began(store, job, hours=0.6)
    assert driver.report(job, epoch, step=4) == "stop"
    assert store.get(job).held.startswith("because it cost 12.00 CNY")


def test_a_budget_of_another_currency_or_without_a_price_holds_nothing(driver: JobDriver, store: Store) -> None:
    announce(store, "box-a", box((80, 80)))
    job = driver.submit(budget=json.dumps({"amount": 1.0, "currency": "USD"}))
    epoch = driver.run(job)
    began(store, job, hours=9)
    driver.report(job, epoch, step=1)
    store.set_price("box-a", Price(per_hour=10.0, currency="CNY"))
    driver.report(job, epoch, step=2)
    assert store.get(job).held == ""


def test_jobs_of_a_user_are_held_when_they_have_cost_the_users_limit(
    driver: JobDriver, store: Store, call: Command
) -> None:
    announce(store, "box-a", box((80, 80)))
    store.set_price("box-a", Price(per_hour=10.0, currency="CNY"))
    first, second = driver.submit(submitter="ann@laptop"), driver.submit(submitter="ann@laptop")
    other = driver.submit(submitter="bob@laptop")
    said = call("cost", "--limit", "5CNY", "--user", "ann@laptop")
    assert said.stdout.startswith("The jobs of ann@laptop may cost 5CNY; so far 0.00 of 5.00 CNY since 20"), said.stderr
    epoch = driver.run(first)
    began(store, first, hours=0.6)
    driver.report(first, epoch, step=1)
    assert store.budgets()["ann@laptop"].spent < 0.5, "it counts from when it was set"
    set_since(store, "ann@laptop", hours=0.6)
    assert driver.report(first, epoch, step=2) == "", "charged to now already"
    store.client.hdel(f"{store.prefix}job:{first}", "charged_ms")
    assert driver.report(first, epoch, step=3) == "stop"
    assert store.get(first).held.startswith("because the jobs of ann@laptop cost 6.0")
    store.move(first, ended(store.get(first), epoch, Reason.STOPPED_BY_BOX, "saved and stopped"))
    assert str(store.get(first).state) == "waiting"
    # Those that wait are held with it, one that comes later at once; others are not.
    assert store.get(second).held.startswith("because the jobs of ann@laptop") and store.get(other).held == ""
    third = driver.submit(submitter="ann@laptop")
    assert str(store.get(third).state) == "waiting" and driver.run(other)
    assert "The jobs of ann@laptop cost 6.0" in call("cost").stdout
    assert json.loads(call("cost", "--json").stdout)["budgets"]["ann@laptop"]["amount"] == 5
    # Released too early it is held again; a larger limit goes on from what was spent.
    store.release(second)
    assert driver.try_claim(second) == "gone" and store.get(second).held
    assert "so far 6.0" in call("cost", "--limit", "20CNY", "--user", "ann@laptop").stdout
    store.release(second)
    assert driver.run(second)
    assert call("cost", "--limit", "none", "--user", "ann@laptop").stdout.endswith("have no limit any more.\n")
    assert call("cost", "--limit", "none", "--user", "ann@laptop").stdout.endswith("had no limit.\n")
    assert store.budgets() == {}


@pytest.mark.parametrize(
    "wrong", [("--limit", "200"), ("--limit", "0CNY"), ("--limit", "5CNY", "--user", "a\nb"), ("--user", "a")]
)
def test_a_limit_that_is_none_changes_nothing(call: Command, store: Store, wrong: tuple[str, ...]) -> None:
    said = call("cost", *wrong)
    assert said.returncode == 2 and "Fix: " in said.stderr and "nothing was changed" in said.stderr
    assert store.budgets() == {}


@pytest.mark.parametrize("text", ["", "[", "5", "{}", '{"amount": 5, "currency": "CNY", "spent": "x", "since_ms": 1}'])
def test_a_damaged_limit_holds_nothing(driver: JobDriver, store: Store, text: str) -> None:
    job = driver.submit(submitter="ann@laptop")
    store.client.hset(f"{store.prefix}budgets", "ann@laptop", text)
    epoch = driver.run(job)
    driver.report(job, epoch, step=1)
    assert store.get(job).held == "" and store.budgets() == {}


def set_since(store: Store, user: str, *, hours: float) -> None:
    """Let a limit have been set so long ago, with nothing spent."""
    budget = json.loads(store.client.hget(f"{store.prefix}budgets", user) or "")
    budget |= {"since_ms": store.now_ms() - round(hours * 3_600_000), "spent": 0}
    store.client.hset(f"{store.prefix}budgets", user, json.dumps(budget))


def began(store: Store, job: str, *, hours: float) -> None:
    """Let the present claim be so old."""
    store.client.hset(f"{store.prefix}job:{job}", "claimed_ms", store.now_ms() - round(hours * 3_600_000))


def test_a_budget_in_a_job_file() -> None:
    text = "budget: {}\ntrain: {{dataset: {{repo_id: a/b}}, policy: {{type: act}}}}\n"
    spec = parse(text.format("200CNY"), filename="j.yaml")
    assert spec.budget == Money(amount=200.0, currency="CNY") and Spec.from_json(spec.to_json()) == spec
    assert fields_of(spec, "0" * 12, submitter="a@b")["budget"] == {"amount": 200.0, "currency": "CNY"}
    for wrong in ("200", "CNY", "0CNY", "-5CNY", "a lot"):
        with pytest.raises(SpecError, match="like 50CNY"):
            parse(text.format(wrong), filename="j.yaml")
