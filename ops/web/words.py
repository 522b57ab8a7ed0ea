"""The page's words in English and Chinese, and how it writes times, amounts and reasons. Pure.

Templates hold the English words; words_zh.py has the Chinese of each. What a box or a job says of itself stays as it
is.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

from pi0q.jobs.printable import printable
from pi0q.ops.web.words_zh import CHINESE, refusal_zh, span_zh, staging_zh, wait_zh
from pi0q.queue import job_text
from pi0q.queue.box_staging import Staging
from pi0q.queue.reading.values import JobView
from pi0q.queue.refusals import Refusal
from pi0q.queue.wait_notes import Wait

LANGUAGES = ("en", "zh")
#: Words of templates that are no English of their own.
ENGLISH = {"other language": "zh", "name of the other language": "中文", "lost": "NaN"}
TIMES = "\N{MULTIPLICATION SIGN}"


def choose(cookie: str | None, accepted: str) -> str:
    """Return the language of an answer: the one chosen before, else the first of ours that the browser accepts."""
    if cookie in LANGUAGES:
        return str(cookie)
    for tag in sorted(accepted.split(","), key=lambda part: -_weight(part)):
        language = tag.strip().partition(";")[0].partition("-")[0].lower()
        if language in LANGUAGES and _weight(tag) > 0:
            return language
    return "en"


def _weight(tag: str) -> float:
    match = re.search(r";\s*q=([01](?:\.\d{1,3})?)\s*$", tag)
    return float(match[1]) if match else 1.0


@dataclass(frozen=True)
class Words:
    """The words of one language."""

    language: str

    def __call__(self, text: str) -> str:
        """Return the text in this language; a text that has no translation stays."""
        return CHINESE.get(text, text) if self.language == "zh" else ENGLISH.get(text, text)

    def span(self, seconds: float | None) -> str:
        """Return a duration in its two largest units."""
        return span_zh(seconds) if self.language == "zh" else job_text.span(seconds)

    def ago(self, then_ms: int | None, now_ms: int) -> str:
        """Return how long ago a moment was; "" for none."""
        return "" if then_ms is None else self("{} ago").format(self.span(max(0, now_ms - then_ms) / 1000))

    def since(self, then_ms: int | None, now_ms: int) -> str:
        """Return how long a moment has passed; "" for none."""
        return "" if then_ms is None else self.span(max(0, now_ms - then_ms) / 1000)

    def time_of(self, job: JobView, now_ms: int) -> str:
        """Return the one duration that matters of a job: left, ago, or waiting."""
        if job.eta_seconds is not None:
            return self("{} left").format(self.span(job.eta_seconds))
        if job.ended_ms is not None:
            return self.ago(job.ended_ms, now_ms)
        return self.since(job.started_ms or job.queued_ms or job.created_ms, now_ms)

    def needs(self, job: JobView) -> str:
        """Return what a job needs of cards."""
        return f"{job.gpus} {TIMES} {gib(job.vram_mib)}" if job.gpus else self("no GPU")

    def doing(self, job: JobView) -> str:
        """Return what an owned job does now."""
        return self("is being cancelled") if job.wish == "cancel" else job.phase

    def why(self, job: JobView) -> str:
        """Return why a job has not started; "" for one that has."""
        return self.wait(job.wait) if job.wait else ""

    def note(self, job: JobView) -> str:
        """Return what a person would ask next about a job."""
        return self.why(job) or self.doing(job) or (job.detail if job.reason and job.state.value != "succeeded" else "")

    def wait(self, wait: Wait) -> str:
        """Return why one job has not started."""
        return wait_zh(wait) if self.language == "zh" else str(wait)

    def refusal(self, refusal: Refusal) -> str:
        """Return why a box does not take a job."""
        return refusal_zh(refusal) if self.language == "zh" else str(refusal)

    def staging(self, staging: Staging) -> str:
        """Return what a box without cards does for waiting jobs."""
        return staging_zh(staging) if self.language == "zh" else staging.progress


def gib(mib: float) -> str:
    """Return memory or disk, short enough for a card."""
    return f"{mib / 1024:.0f} GiB" if mib >= 10240 or mib <= 0 else f"{mib / 1024:.1f} GiB"


def share(part: float, whole: float) -> float:
    """Return a part between 0 and 1; 0 of nothing."""
    return min(1.0, max(0.0, part / whole)) if whole else 0.0


def number(value: float | None) -> str:
    """Return a loss or rate; `NaN` in words for one that is none."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞"
    return f"{value:.4g}" if value == 0 or 0.001 <= abs(value) < 1e5 else f"{value:.2e}"


def clock(at_ms: int | None) -> str:
    """Return a moment by the clock of the machine that serves the page."""
    return "" if at_ms is None else time.strftime("%m-%d %H:%M:%S", time.localtime(at_ms / 1000))


def short(text: object, most: int) -> str:
    """Return a text, cut where it is longer than `most` characters."""
    whole = printable(str(text))
    return whole if len(whole) <= most else whole[: most - 1] + "…"


def card_name(name: str) -> str:
    """Return a card's name as people call it: its maker and its memory are left out."""
    words = name.removeprefix("NVIDIA ").removeprefix("GeForce ")
    return short(re.sub(r"[ -]\d+ ?GB\b|[ -]HBM\w*", "", words) or words, 40)


def shown(value: object) -> object:
    """Return what a template prints: text without control characters and marks of direction."""
    return printable(value) if type(value) is str else "" if value is None else value
