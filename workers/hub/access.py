"""Ask the Hub whether a job's repositories can be had, over every route that may help; see access_main.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi0q.jobs.safety.pretrained import Files
from pi0q.queue.settings import Settings
from pi0q.workers.host import helper_process
from pi0q.workers.host.helper_process import Helper
from pi0q.workers.hub.errors import HubError, unreachable
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.hub.session import HubSession, Pins, Request
from pi0q.workers.network import routes
from pi0q.workers.network.routes import MODELSCOPE, Route

#: Seconds without an answer after which a route is given up; no file of any size is asked for.
SILENCE_SECONDS = 20.0


@dataclass(kw_only=True)
class AccessReport:
    """What the Hub answered about one job, or about this box's account."""

    #: Why repositories can't be had, one each; empty: all can.
    errors: list[HubError] = field(default_factory=list)
    #: `meta/info.json` of its dataset; None where it was not read.
    info: Any = None
    #: Paths of all files of its dataset; None where they were not told.
    names: tuple[str, ...] | None = None
    #: "ok", "refused" or "unknown"; "" if nobody could be asked.
    push: str = ""
    push_why: str = ""
    #: The same of the repository of copies; also "public".
    copies: str = ""
    copies_why: str = ""
    #: The files of its base and tokenizers, as far as they matter, by fetch and commit.
    models: list[tuple[Fetch, str, Files]] = field(default_factory=list)
    #: Of this box's token: "ok", "none", "refused" or "unknown"; "" if nobody was asked.
    account: str = ""
    account_why: str = ""
    #: Whose token it is.
    user: str = ""
    #: Bytes of what is wanted of each repository, and the commit that was named, by pin.
    sizes: dict[str, int] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    #: What its user should know.
    notes: list[str] = field(default_factory=list)


def ask(
    fetches: Iterable[Fetch],
    settings: Settings,
    *,
    pins: Pins,
    push: str,
    copies: str = "",
    meta_dir: Path | None = None,
) -> AccessReport:
    """Ask for all repositories; one that is complete in the cache counts as had, whatever the network does.

    `meta_dir`: an empty directory for the small files of a dataset, where they are wanted.
    """
    requests = [pins.request(fetch) for fetch in fetches]
    session = AccessSession(requests, settings, questions={"push": push, "copies": copies})
    session.meta_dir = str(meta_dir or "")
    if routes.offline():
        for request in requests:
            request.error = unreachable(request.fetch.repo_id, "HF_HUB_OFFLINE is set on this box")
    else:
        session.try_routes()
    for request in requests:
        session.take_cached(request)
    return session.result()


def ask_account(fetch: Fetch, settings: Settings, route: Route, *, env: Mapping[str, str]) -> AccessReport:
    """Ask over one route whose token this box has, and whether it may read a repository."""
    request = Request(fetch=fetch, pin=None)
    session = AccessSession([request], settings, questions={}, env=env)
    session.send(route, [request], {"account": True})
    return session.result()


class AccessSession(HubSession):
    """All questions about one job."""

    helper = Helper(
        argv=helper_process.module("pi0q.workers.hub.access_main"),
        name="the access check",
        silence="no answer came",
        log="the worker's log",
    )

    def __init__(
        self,
        requests: Iterable[Request],
        settings: Settings,
        *,
        questions: Mapping[str, str],
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`questions`: the repositories to push and to copy to, "" for none."""
        super().__init__(requests, settings, env=env)
        self.stall_seconds = SILENCE_SECONDS
        #: Where small files of a dataset are put; "" for nowhere.
        self.meta_dir = ""
        self.report, self._questions = AccessReport(), questions

    def public_routes(self, known: Sequence[Route]) -> Sequence[Route]:
        # What it says is not the Hub's: it comes after all others, whatever the settings prefer for the bytes.
        return [route for route in known if route.name != MODELSCOPE]

    def candidates(self) -> Iterator[Route]:
        yield from super().candidates()
        yield from (route for route in self.known if route.name == MODELSCOPE)

    def is_open(self) -> bool:
        return bool(self.pending() or self._unanswered())

    def extra(self, route: Route) -> Mapping[str, Any]:
        return self._unanswered() if route.trusted else {}

    def send(self, route: Route, requests: Sequence[Request], extra: Mapping[str, Any]) -> None:
        super().send(route, requests, {**extra, "meta_dir": self.meta_dir})

    def _unanswered(self) -> dict[str, str]:
        return {name: repo for name, repo in self._questions.items() if repo and not getattr(self.report, name)}

    def on_answer(self, request: Request, line: Mapping[str, Any]) -> None:
        request.error, request.done = None, True
        if line.get("uncompared"):
            self.report.notes.append(f"{request.what}: ModelScope has it, not compared with the Hub")
        self.report.info = line.get("info", self.report.info)
        if isinstance(names := line.get("names"), list):
            self.report.names = tuple(map(str, names))
        if "model" in line:
            self.report.models.append((request.fetch, str(line["model"]["sha"]), _files(line["model"])))

    def on_extra(self, line: Mapping[str, Any]) -> None:
        report = self.report
        if "push" in line:
            report.push, report.push_why = line["push"], line["why"]
        elif "copies" in line:
            report.copies, report.copies_why = line["copies"], line["why"]
        elif "account" in line:
            report.account, report.user, report.account_why = line["account"], line["user"], line["why"]

    def on_note(self, text: str) -> None:
        self.report.notes.append(text)

    def take_cached(self, request: Request) -> None:
        """Count a failed request as had where the cache holds it."""
        if request.error and (sha := request.cached_commit(self.settings.hf_home)):
            self.report.notes.append(f"{request.error.why}; there is a copy in this box's cache (commit {sha[:8]})")
            request.error = None

    def result(self) -> AccessReport:
        """Return the report, with what the requests came to."""
        self.report.errors = [request.error for request in self.requests if request.error]
        self.report.sizes = {
            request.fetch.pin: sum(blob.size for blob in request.blobs) for request in self.requests if request.sha
        }
        self.report.commits = {request.fetch.pin: request.sha for request in self.requests if request.sha}
        return self.report


def _files(model: Mapping[str, Any]) -> Files:
    contents = {name: text.encode("latin-1") for name, text in model["contents"].items()}
    return Files(names=frozenset(model["names"]), contents=contents)
