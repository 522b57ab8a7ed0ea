"""The page as a person sees it: `pi0q web` in a process of its own, looked at with a real browser."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from pi0q.jobs.state import State
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver, Start, WaitFor
from tests.rig import fleet
from tests.rig.web_page import WebPage, open_web

pytest.importorskip("starlette")
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

Look = Callable[..., Page]


def is_fault(said: ConsoleMessage) -> bool:
    """Whether a script failed or the page's policy blocked something; a page that is gone is none."""
    return said.type == "error" and "net::" not in said.text


@pytest.fixture
def look(browser: Browser) -> Iterator[Look]:
    """Opens a page as a user of it; fails the test where a script failed or the page's own policy blocked something."""
    opened, faults = [], list[str]()

    def open_page(web: WebPage, path: str, *, user: str = "pi0q", **how: object) -> Page:
        login = {"username": user, "password": web.passwords[user]}
        context = browser.new_context(http_credentials=login, **how)  # type: ignore[arg-type]
        opened.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda said: faults.append(said.text) if said.type == "error" and "net::" not in said.text else None,
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(web.url + path)
        return page

    yield open_page
    for context in opened:
        context.close()
    assert faults == []


def test_each_page_shows_the_whole_fleet_on_a_desk_and_a_phone(
    store: Store, start: Start, chosen: Settings, look: Look
) -> None:
    _, _, ids = fleet.fill(store)
    web = open_web(start, chosen.home)
    page = look(web, "/")
    expect(page.locator("#totals")).to_contain_text("7 / 11")
    expect(page.locator(f"#run-{ids['grab_box_pi0_fmc3']}")).to_contain_text("31,250 / 50,000")
    expect(page.locator(f"#run-{ids['stack_cups_pi05']}")).to_contain_text("a100-lab unreachable")
    expect(page.locator(f"#run-{ids['pour_water_pi05']}")).to_contain_text("compiling")
    expect(page.locator(f"#wait-{ids['pi0_full_batch64']}")).to_contain_text("too big: needs 141.0 GiB on a card")
    expect(page.locator("#box-h100-a .card")).to_have_count(8)
    expect(page.locator("#box-h100-a")).to_contain_text("grab_box_pi0_fmc3")
    expect(page.locator("#box-h100-b")).to_contain_text("by grace@desk: new driver on Friday")
    expect(page.locator("#box-a100-lab .pill").first).to_have_text("unreachable")
    page.goto(f"{web.url}/jobs?state=failed")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.goto(f"{web.url}/jobs/{ids['grab_box_hot_lr']}")
    expect(page.locator("#cure")).to_contain_text("lower the learning rate")
    page.goto(f"{web.url}/jobs/{ids['grab_box_pi0_fmc3']}")
    expect(page.locator("#checkpoints")).to_contain_text("step 30,000")
    expect(page.locator("#log")).to_contain_text("step:19800")
    expect(page.get_by_role("link", name="WandB")).to_have_attribute(
        "href", "https://wandb.ai/lab/lerobot/runs/pi0q-5c1f"
    )
    assert page.get_by_role("link", name="Cancel").count() == 0
    phone = look(web, "/", viewport={"width": 390, "height": 844}, locale="zh-CN")
    expect(phone.locator("nav")).to_contain_text("队列")
    for path in ("/", "/queue", "/jobs", "/boxes", f"/jobs/{ids['grab_box_pi0_fmc3']}"):
        phone.goto(web.url + path)
        assert phone.evaluate("document.documentElement.scrollWidth") == 390, path
    phone.get_by_role("link", name="English").click()
    expect(phone.locator("nav")).to_contain_text("Queue")


def test_an_open_page_follows_the_queue_and_tells_that_the_server_is_away(
    driver: JobDriver, start: Start, chosen: Settings, look: Look, env: dict[str, str]
) -> None:
    job = driver.submit("grab_box")
    web = open_web(start, chosen.home)
    page = look(web, "/")
    expect(page.locator("#queue")).to_contain_text("grab_box")
    expect(page.locator("#queue")).to_contain_text("no box is up")
    epoch = driver.run(job)
    driver.report(job, epoch, step=25000, steps=50000, loss=0.125)
    expect(page.locator(f"#run-{job}")).to_contain_text("25,000 / 50,000")
    driver.report(job, epoch, step=30000, loss=0.0625)
    expect(page.locator(f"#run-{job}")).to_contain_text("loss 0.0625")
    expect(page.locator(".live")).to_have_attribute("data-link", "on")
    assert web.running.end(signal.SIGTERM) == 0
    expect(page.locator(".live")).to_contain_text("not connected")
    page.context.close()


def test_an_operator_acts_after_a_question_and_others_have_no_buttons(
    driver: JobDriver, start: Start, chosen: Settings, look: Look, wait_for: WaitFor
) -> None:
    job, running = driver.submit("grab_box"), driver.submit("fold_cloth")
    driver.run(running)
    web = open_web(start, chosen.home, "--actions")
    page = look(web, f"/jobs/{job}", user="operator")
    page.get_by_role("link", name="Priority …").click()
    page.get_by_label("Priority").select_option("urgent")
    page.get_by_role("button", name="Change").click()
    expect(page.locator("#said")).to_have_text("Done.")
    assert driver.store.get(job).priority == "urgent"
    page.get_by_role("link", name="Hold").click()
    assert driver.store.get(job).state is State.QUEUED
    page.get_by_role("button", name="Hold").click()
    expect(page.locator("#title")).to_contain_text("held")
    assert driver.store.get(job).held == "by operator on the web page"
    page.get_by_role("link", name="Release").click()
    page.get_by_role("button", name="Release").click()
    expect(page.locator("#title")).to_contain_text("queued")
    page.get_by_role("link", name="Cancel").click()
    page.get_by_role("link", name="Back").click()
    assert driver.store.get(job).state is State.QUEUED
    page.get_by_role("link", name="Cancel").click()
    page.get_by_role("button", name="Yes, cancel it").click()
    expect(page.locator("#title")).to_contain_text("cancelled")
    assert driver.store.get(job).detail == "cancelled by operator on the web page"
    page.goto(f"{web.url}/jobs/{running}/checkpoint")
    page.get_by_role("button", name="Save now").click()
    expect(page.locator("#said")).to_contain_text("It is asked to")
    assert driver.store.get(running).save_wish
    assert look(web, f"/jobs/{running}").locator(".actions .button").count() == 0


def test_a_taken_port_and_wrong_options_are_told(call: Command, start: Start, chosen: Settings) -> None:
    web = open_web(start, chosen.home)
    port = web.url.rpartition(":")[2]
    taken = call("web", "--port", port)
    assert taken.returncode == 2 and "choose another port with --port" in taken.stderr
    assert call("web", "--user", "a:b").returncode == 2
    assert call("web", "--user", "operator").returncode == 2
    (chosen.home / "web.password").write_text("two\nlines\n")
    assert "one line of printable ASCII" in call("web", "--port", "0").stderr
