"""The page as it lies on a phone, a laptop and a wall: measured in a real browser, with the whole fleet on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from tests.conftest import Start
from tests.rig import fleet
from tests.rig.web_page import WebPage, open_web

pytest.importorskip("starlette")
from playwright.sync_api import Browser, Page

SIZES = {"phone": (390, 844), "laptop": (1280, 800), "wall": (2560, 1440), "large wall": (3840, 2160)}
#: What does not fit where it stands: the whole page, or a part that is cut off without three dots.
OVERFLOWS = """() => {
  const found = [], width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) found.push(`the page: ${document.documentElement.scrollWidth}`);
  for (const one of document.querySelectorAll("body *")) {
    const style = getComputedStyle(one);
    const cut = style.textOverflow === "ellipsis" || style.webkitLineClamp !== "none";
    if (style.display === "inline" || cut || !one.clientWidth || one.closest("svg")) continue;
    if (one.scrollWidth > one.clientWidth + 1) found.push(`${one.className}: ${one.textContent.trim().slice(0, 40)}`);
  }
  return found;
}"""
#: Links and fields that a finger misses: fewer than 40 pixels of height answer to it.
SMALL_TARGETS = """() => {
  const found = [];
  for (const one of document.querySelectorAll("a, button, select, input:not([type=hidden])")) {
    one.scrollIntoView({ block: "center" });
    const at = one.getBoundingClientRect(), x = at.left + Math.min(20, at.width / 2), y = at.top + at.height / 2;
    const hit = (line) => one.contains(document.elementFromPoint(x, line));
    let top = y, bottom = y;
    while (top > y - 60 && hit(top - 1)) top -= 1;
    while (bottom < y + 60 && hit(bottom + 1)) bottom += 1;
    if (bottom - top < 38) found.push(`${one.textContent.trim().slice(0, 30)}: ${Math.round(bottom - top + 1)} high`);
  }
  return found;
}"""
#: The smallest text, as a share of the screen's height: of a wall it is what three metres allow.
SMALLEST_TEXT = """() => {
  const sizes = [...document.querySelectorAll("main *")].filter((one) => !one.closest("svg, pre"))
    .filter((one) => [...one.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.nodeValue.trim()))
    .map((one) => parseFloat(getComputedStyle(one).fontSize));
  return Math.min(...sizes) / innerHeight;
}"""


@pytest.fixture
def paths(store: Store) -> list[str]:
    """Fills the server; returns each kind of page, and a job that runs, failed and waits."""
    made, (big, *_), ids = fleet.fill(store)
    long = made.submit("a_name_without_a_break_" * 6, by="somebody.with.a.long.name@a-machine-with-a-long-name.example")
    made.progress(long, made.run(long, big, (7,)), 100, loss=1.5e-12, phase="p" * 200)
    made.announce(big)
    ids["long"] = long
    jobs = ("grab_box_pi0_fmc3", "grab_box_hot_lr", "urgent_demo_act", "long")
    return ["/", "/queue", "/jobs", "/boxes", *(f"/jobs/{ids[name]}" for name in jobs), f"/jobs/{ids[jobs[0]]}/cancel"]


@pytest.fixture
def web(start: Start, chosen: Settings, paths: list[str]) -> WebPage:
    return open_web(start, chosen.home, "--actions")


def pages(browser: Browser, web: WebPage, paths: list[str], size: tuple[int, int], language: str) -> Iterator[Page]:
    """Yield each page, opened in a window of this size."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        http_credentials={"username": "operator", "password": web.passwords["operator"]},
        locale=language,
    )
    page = context.new_page()
    for path in paths:
        page.goto(web.url + path)
        yield page
    context.close()


@pytest.mark.parametrize(
    ("name", "language"), [("phone", "en"), ("phone", "zh-CN"), ("laptop", "en"), ("wall", "zh-CN")]
)
def test_nothing_is_wider_than_its_place(
    browser: Browser, web: WebPage, paths: list[str], name: str, language: str
) -> None:
    found = {
        page.url.removeprefix(web.url): faults
        for page in pages(browser, web, paths, SIZES[name], language)
        if (faults := page.evaluate(OVERFLOWS))
    }
    assert found == {}


def test_a_finger_hits_each_link_of_a_phone(browser: Browser, web: WebPage, paths: list[str]) -> None:
    found = {
        page.url.removeprefix(web.url): faults
        for page in pages(browser, web, paths, SIZES["phone"], "en")
        if (faults := page.evaluate(SMALL_TARGETS))
    }
    assert found == {}


def test_a_wall_is_read_from_afar_and_shows_every_box(browser: Browser, web: WebPage, paths: list[str]) -> None:
    for name in ("wall", "large wall"):
        for page in pages(browser, web, ["/"], SIZES[name], "en"):
            # 1.1 % of the height of a screen of 55 inches are 7.5 mm.
            assert page.evaluate(SMALLEST_TEXT) > 0.011, name
            height = page.evaluate("document.documentElement.scrollHeight")
            assert height <= SIZES[name][1], f"{name}: the fleet of a lab needs no scrolling"
