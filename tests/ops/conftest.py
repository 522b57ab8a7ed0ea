"""A real Flower and a real browser."""

from __future__ import annotations

import base64
import contextlib
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..conftest import PATIENCE, Running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

#: Added to a command's environment: nothing but `pi0q up` itself says where the queue is.
NOWHERE = {"PI0Q_REDIS_URL": "", "PI0Q_PREFIX": ""}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Web:
    """A Flower that runs, asked without a browser."""

    def __init__(self, url: str, home: Path, running: Running) -> None:
        self.url, self.running = url, running
        self.password = (home / "flower.password").read_text().strip()

    def login(self, password: str = "") -> dict[str, str]:
        """Return the header that sends a password; left out: the right one."""
        token = base64.b64encode(f"pi0q:{password or self.password}".encode()).decode()
        return {"Authorization": f"Basic {token}"}

    def get(self, path: str, *, password: str | None = "", method: str = "GET") -> tuple[int, str]:
        request = urllib.request.Request(self.url + path, method=method)
        for name, value in ({} if password is None else self.login(password)).items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


def shows(page: Page, where: str, text: str) -> None:
    """Waits until an element says this, a regular expression; a page that does not poll is loaded anew."""
    from playwright.sync_api import expect

    for tries in range(8):
        # Each time longer: a page must have the time to be drawn.
        with contextlib.suppress(AssertionError):
            expect(page.locator(where)).to_contain_text(re.compile(text), timeout=500 * 2**tries)
            return
        page.reload()
    raise AssertionError(f"{text!r} never came; there is {page.locator('body').inner_text()}")


def press(page: Page, button: str) -> None:
    """Presses a button of a job's page and waits for Flower's answer; before its script has run it does nothing."""
    page.wait_for_url("**/task/*", wait_until="load")
    page.once("dialog", lambda question: question.accept())
    with page.expect_response("**/api/task/revoke/*"):
        page.get_by_role("button", name=button).click()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless browser of this machine; playwright's own can't be had everywhere."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser on PATH (looked for {', '.join(BROWSERS)})")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=1000 * PATIENCE)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()
