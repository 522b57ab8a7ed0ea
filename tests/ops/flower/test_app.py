"""Flower as a person sees it: a real Flower in a process of its own, looked at with a real browser."""

from __future__ import annotations

import json
import signal
import stat
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pi0q.jobs import transition
from pi0q.jobs.errors import UsageError
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.state import State
from pi0q.ops.flower import app
from pi0q.ops.local import server as servers
from pi0q.queue.settings import Settings
from pi0q.queue.store import heard
from tests.conftest import Command, JobDriver, Start
from tests.ops.conftest import Web, press, shows

pytest.importorskip("flower")
from playwright.sync_api import Browser, Page, expect

LINK = "https://wandb.ai/us/lerobot/runs/pi0q-1"
SAVED = Saved(step=40000, path="/data/runs/x/checkpoints/040000", manifest="0" * 64, bytes=10)


@pytest.fixture
def start_web(start: Start, chosen: Settings) -> Callable[..., Web]:
    def start_web(*options: str) -> Web:
        running = start("flower", "--port", "0", *options)
        return Web(running.until("Flower: ").split()[1], chosen.home, running)

    return start_web


@pytest.fixture
def web(start_web: Callable[..., Web]) -> Web:
    return start_web()


@pytest.fixture
def look(browser: Browser) -> Iterator[Callable[[Web, str], Page]]:
    """Opens a page of Flower with the password."""
    opened = []

    def open_page(web: Web, path: str) -> Page:
        context = browser.new_context(http_credentials={"username": "pi0q", "password": web.password})
        opened.append(context)
        page = context.new_page()
        page.goto(web.url + path)
        return page

    yield open_page
    for context in opened:
        context.close()


Look = Callable[[Web, str], Page]


def running_job(driver: JobDriver) -> tuple[str, int]:
    job = driver.submit(wandb_url=LINK)
    epoch = driver.run(job)
    driver.report(job, epoch, step=120, steps=50000, loss=0.1234, eta_seconds=3780.0, phase="")
    return job, epoch


def row(page: Page, job: str, text: str) -> None:
    """Waits until a line of the tasks page says this."""
    shows(page, f"tr[id='{job}']", text)


def test_jobs_that_wait_run_and_ended_before_flower_started(
    driver: JobDriver, start_web: Callable[..., Web], look: Look
) -> None:
    waiting = driver.submit("not_yet")
    running, _ = running_job(driver)
    done, epoch = running_job(driver)
    driver.report(done, epoch, step=50000, checkpoint=SAVED)
    driver.store.move(done, transition.ended(driver.store.get(done), epoch, Reason.FINISHED, "50000 steps"))
    broken, epoch = running_job(driver)
    record = driver.store.get(broken)
    driver.store.move(broken, transition.ended(record, epoch, Reason.CUDA_OUT_OF_MEMORY, "wanted 2 GiB"))
    page = look(start_web(), "/tasks")
    row(page, waiting, r"not_yet(.|\n)*PENDING")
    row(page, running, r"grab_box(.|\n)*STARTED(.|\n)*step 120/50000 0% · loss 0.123 · 1h 3m left · " + LINK)
    row(page, done, r"SUCCESS(.|\n)*step 50000/50000 100%(.|\n)*saved /data/runs/x/checkpoints/040000")
    row(page, broken, r"FAILURE")
    page.goto(page.url.replace("/tasks", f"/task/{broken}"))
    expect(page.locator("#task-page")).to_contain_text("wanted 2 GiB (cuda_out_of_memory)")
    expect(page.locator("#task-page")).to_contain_text("lower batch_size")
    expect(page.locator("#task-page")).to_contain_text("pi0q@box-a")


def test_changes_are_seen_while_it_runs(driver: JobDriver, web: Web, look: Look) -> None:
    page = look(web, "/tasks")
    job, epoch = running_job(driver)
    row(page, job, "STARTED(.|\n)*step 120/50000")
    driver.report(job, epoch, step=25000)
    row(page, job, "step 25000/50000 50%")
    record = driver.store.get(job)
    driver.store.move(job, transition.ended(record, epoch, Reason.BOX_RESTARTED, "it went away"))
    row(page, job, "RETRY")
    epoch = driver.claim(job)
    row(page, job, "RECEIVED")
    driver.store.move(job, transition.preparing(epoch, attempt=1, run_dir="/data/runs/x"))
    driver.store.move(job, transition.running(epoch, text="pid 2", started_ms=None))
    row(page, job, "STARTED")
    started = driver.store.get(job).started_ms
    task = json.loads(web.get(f"/api/task/info/{job}")[1])
    assert task["started"] == pytest.approx((started or 0) / 1000)


def test_every_page_links_to_the_page_of_pi0q_where_that_is_up(chosen: Settings, web: Web) -> None:
    assert "the page of pi0q" not in web.get("/tasks")[1]
    for url, shown in (("http://127.0.0.1:5850", True), ("https://elsewhere.example", False), (5, False)):
        (chosen.home / "up.json").write_text(json.dumps({"web_url": url}))
        assert (f'href="{url}"' in web.get("/tasks")[1]) is shown


@pytest.mark.parametrize("led_by", ["the list", "a bookmark"])
def test_terminate_asks_the_owner_to_end_it(driver: JobDriver, web: Web, look: Look, led_by: str) -> None:
    job, epoch = running_job(driver)
    page = look(web, "/tasks")
    row(page, job, "STARTED")
    if led_by == "the list":
        page.get_by_role("link", name=job).click()
    else:
        page = look(web, f"/task/{job}")
    changes = driver.store.subscribe("changes")
    press(page, "Terminate")
    while driver.report(job, epoch) != "cancel":
        assert list(heard(changes, 10.0)), "the wish never came"
    changes.close()
    driver.store.move(job, transition.cancelled(epoch, text="stopped"))
    row(look(web, "/tasks"), job, "REVOKED")
    assert driver.store.get(job).history[-2].text == "cancelled in Flower by pi0q"


def test_revoke_ends_a_job_that_was_interrupted_though_no_box_is_there(driver: JobDriver, web: Web, look: Look) -> None:
    job, epoch = running_job(driver)
    driver.store.move(job, transition.ended(driver.store.get(job), epoch, Reason.BOX_RESTARTED, "it went away"))
    page = look(web, "/tasks")
    row(page, job, "RETRY")
    page.get_by_role("link", name=job).click()
    press(page, "Revoke")
    row(look(web, "/tasks"), job, "REVOKED")
    assert driver.store.get(job).state is State.CANCELLED
    assert driver.store.waiting() == []


def test_the_waiting_jobs_are_counted(driver: JobDriver, web: Web, look: Look) -> None:
    for number in range(3):
        driver.submit(f"job{number}")
    shows(look(web, "/broker"), "tr#jobs", r"^\s*jobs\s+3\b")


def test_a_restarted_flower_knows_it_all(driver: JobDriver, start_web: Callable[..., Web], look: Look) -> None:
    first = start_web()
    job, epoch = running_job(driver)
    row(look(first, "/tasks"), job, "STARTED")
    assert first.running.end(signal.SIGTERM) == 0
    driver.store.move(job, transition.ended(driver.store.get(job), epoch, Reason.FINISHED, "done"))
    second = start_web()
    assert second.password == first.password
    row(look(second, "/tasks"), job, "SUCCESS")


def test_it_asks_for_the_password(web: Web) -> None:
    closed = ("/", "/tasks", "/broker", "/api/tasks", "/api/workers", "/tasks/datatable", "/metrics", "/healthcheck")
    for path in closed:
        assert web.get(path, password=None)[0] == 401, path
        assert web.get(path, password="wrong")[0] == 401, path
    assert web.get("/api/task/revoke/x", password=None, method="POST")[0] == 401
    assert web.get("/tasks")[0] == 200
    assert web.get("/metrics")[0] == 200
    assert web.get("/healthcheck") == (200, "OK")


def test_request_for_a_foreign_host_is_refused(web: Web) -> None:
    for host in ("evil.example", "evil.example:5555", "127.0.0.1.evil.example", ""):
        request = urllib.request.Request(web.url + "/healthcheck", headers={"Host": host, **web.login()})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        with refused.value as answer:
            assert answer.code in (400, 403), host


def test_answers_forbid_frames_and_foreign_content(web: Web) -> None:
    for path in ("/", "/api/workers", "/healthcheck"):
        with urllib.request.urlopen(urllib.request.Request(web.url + path, headers=web.login())) as answer:
            assert answer.headers["X-Frame-Options"] == "DENY", path
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], path


def test_no_page_tells_the_servers_password(driver: JobDriver, web: Web, server: servers.Server) -> None:
    secret = server.url.split(":")[2].split("@")[0]
    running_job(driver)
    for path in ("/", "/tasks", "/broker", "/api/workers", "/api/tasks", "/metrics"):
        assert secret not in web.get(path)[1], path


def test_read_only_has_no_buttons(driver: JobDriver, start_web: Callable[..., Web]) -> None:
    web = start_web("--read-only")
    job, _ = running_job(driver)
    assert web.get(f"/api/task/revoke/{job}?terminate=true", method="POST")[0] == 403
    assert driver.store.get(job).wish == ""


def test_a_taken_port_is_told(web: Web, pi0q: Command) -> None:
    port = web.url.rpartition(":")[2]
    second = pi0q("flower", "--port", port)
    assert second.returncode == 2
    assert f"Flower can't listen on 127.0.0.1:{port}" in second.stderr


def test_the_password_is_made_once_and_private(tmp_path: Path) -> None:
    made = app.password(tmp_path)
    assert len(made) >= 20
    assert app.password(tmp_path) == made
    assert stat.S_IMODE((tmp_path / "flower.password").stat().st_mode) == 0o600
    own = tmp_path / "own"
    own.write_text("open sesame\n")
    assert app.password(tmp_path, own) == "open sesame"
    own.write_text("two\nlines")
    with pytest.raises(UsageError, match="one line"):
        app.password(tmp_path, own)
