"""Attacks on the web page: each must fail."""

from __future__ import annotations

import json

import pytest

from pi0q.jobs.state import State
from pi0q.queue.settings import Settings
from tests.conftest import JobDriver, Start
from tests.rig.web_page import WebPage, open_web

pytest.importorskip("starlette")
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg/onload=alert(1)>"
PAGES = ("/", "/queue", "/jobs", "/boxes", "/events", "/metrics", "/static/page.css", "/language?to=zh")


@pytest.fixture
def web(start: Start, chosen: Settings) -> WebPage:
    return open_web(start, chosen.home, "--actions")


def test_nothing_is_told_without_the_password(driver: JobDriver, web: WebPage) -> None:
    job = driver.submit("secret_name")
    for path in (*PAGES, f"/jobs/{job}", f"/jobs/{job}/cancel", "/nowhere"):
        assert web.ask(path, user="").status == 401, path
    given = [
        web.login("pi0q", "wrong"),
        web.login("pi0q", web.passwords["operator"]),
        web.login("root", web.passwords["pi0q"]),
        {"Authorization": "Basic ====="},
        {"Authorization": "Bearer x"},
    ]
    for header in given:
        assert web.ask("/", user="", **header).status == 401
    answer = web.ask(f"/jobs/{job}/cancel", user="", method="POST", body="token=x")
    assert answer.status == 401 and "secret_name" not in answer.text


def test_names_of_jobs_boxes_and_users_are_text_alone(driver: JobDriver, web: WebPage) -> None:
    link, long = "https://wandb.ai/x", "n" * 10_000
    job = driver.submit(SCRIPT, submitter=SCRIPT, wandb_url=link)
    epoch = driver.run(job)
    driver.report(job, epoch, phase=SCRIPT, step=5, steps=9, log=f"{SCRIPT}\x1b[31m \u202eevil\n")
    queued = driver.submit(long)
    note = {"status": "ready", "note": SCRIPT, "home": SCRIPT, "lerobot": SCRIPT, "disk_free_mib": "1", "slots": "1"}
    note["gpus"] = json.dumps([{"uuid": "GPU-1", "name": SCRIPT, "total_mib": 80, "free_mib": 8}])
    driver.store.announce_box("box-a", "id", note, boot="1")
    for path in ("/", "/queue", "/jobs", "/boxes", f"/jobs/{job}", f"/jobs?text={'%3Cscript%3E'}", f"/jobs/{queued}"):
        answer = web.ask(path)
        assert answer.status == 200
        assert "<script>alert" not in answer.text and "<img" not in answer.text and "<svg/onload" not in answer.text
        assert "\x1b" not in answer.text and "\u202e" not in answer.text
        # The ends of a long name would push everything else off a page.
        assert "n" * 400 not in answer.text
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-frame-options"] == "DENY" and answer.headers["cache-control"] == "no-store"
    for bad in ("javascript:alert(1)", 'https://x"><script>alert(1)</script>'):
        driver.store.client.hset(driver.store.prefix + f"job:{job}", "wandb_url", bad)
        assert "javascript:" not in web.ask(f"/jobs/{job}").text


def test_another_site_cannot_act_and_a_viewer_cannot_either(driver: JobDriver, web: WebPage) -> None:
    job, other = driver.submit(), driver.submit()
    token, path = web.form_token(job, "cancel"), f"/jobs/{job}/cancel"
    post = {"user": "operator", "method": "POST", "body": f"token={token}"}
    refused = [
        web.ask(path, **post, origin="https://evil.example"),
        web.ask(path, **post, origin="null"),
        web.ask(path, **post, origin=web.url, sec_fetch_site="cross-site"),
        web.ask(path, **post, sec_fetch_site="same-site"),
        web.ask(path, **{**post, "body": ""}, origin=web.url),
        web.ask(path, **{**post, "body": "token=" + "0" * 64}, origin=web.url),
        web.ask(f"/jobs/{other}/cancel", **post, origin=web.url),
        web.ask(f"/jobs/{job}/hold", **post, origin=web.url),
        web.ask(path, **{**post, "user": "pi0q"}, origin=web.url),
        web.ask(path, user="pi0q"),
    ]
    assert [answer.status for answer in refused] == [403] * len(refused)
    assert web.ask(path, **{**post, "body": "x" * 100_000}, origin=web.url).status == 413
    assert web.ask(path, **{**post, "method": "PUT"}).status == 405
    assert web.act(job, "bump", priority="; FLUSHALL").status == 400
    assert driver.store.get(job).state is driver.store.get(other).state is State.QUEUED
    assert web.ask(path, **post, origin=web.url).status == 303
    assert driver.store.get(job).state is State.CANCELLED


def test_without_actions_there_is_nobody_who_may_act(driver: JobDriver, start: Start, chosen: Settings) -> None:
    job, web = driver.submit(), open_web(start, chosen.home)
    for method in ("GET", "POST"):
        assert web.ask(f"/jobs/{job}/cancel", method=method, origin=web.url).status == 403
    web.passwords["operator"] = ""
    assert web.ask("/", user="operator").status == 401


def test_paths_lead_nowhere_else_and_foreign_hosts_get_no_answer(web: WebPage, driver: JobDriver) -> None:
    for path in (
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/%2e%2e/web_login.py",
        "/static//etc/passwd",
        "/static/..%5c..%5capp.py",
        "/jobs/../../etc/passwd",
        "/jobs/%2e%2e%2fweb.password",
        "/jobs/" + "a" * 9000,
        "/jobs/ABCDEFABCDEF",
        "/jobs/000000000000",
        "/static/",
    ):
        answer = web.ask(path)
        assert answer.status in (400, 404), path
        assert "from __future__" not in answer.text and "root:" not in answer.text
    assert web.ask("/", host="evil.example").status == 403
    assert web.ask("/", host="127.0.0.1.evil.example:80").status == 403
    for back in ("//evil.example", "https://evil.example", "/\\evil.example", "/\r\nSet-Cookie: a=b"):
        answer = web.ask("/language?to=zh&back=" + back.replace("\r\n", "%0d%0a").replace(" ", "%20"))
        assert answer.headers["location"] == "/", back
