"""/metrics of the running web page."""

from __future__ import annotations

from pathlib import Path

from pi0q.queue.store import Store
from tests.conftest import JobDriver, Start
from tests.rig.web_page import open_web


def test_metrics_are_behind_the_password(start: Start, tmp_path: Path, store: Store, driver: JobDriver) -> None:
    driver.run(driver.submit("runs"))
    web = open_web(start, tmp_path / "home")
    assert web.ask("/metrics", user="").status == 401
    answer = web.ask("/metrics")
    assert answer.status == 200 and 'pi0q_jobs{state="running"} 1.0' in answer.text
