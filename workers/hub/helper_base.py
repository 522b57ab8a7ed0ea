"""What the helper processes that talk to the Hub share: their request, their token, what a repository holds.

    {"fetches": [...], "pins": {...}, "hf_home": ..., "endpoint": ..., "trusted": ..., "parent": ...,
     "road": ..., "given": {"0": what fetch 0 takes, as modelscope.Given has it}}                       on stdin
    {"n": 0, "sha": ..., "ref": ..., "blobs": [[name, size], ...], "paths": [...],
     "closed": ...}                                                what fetch 0 will take; gated or private
    {"n": 0, "refused": {...}}                                         why it failed
    {"say": ...} {"alive": 123456} {"bug": ...}                        on stdout, a line each

The token is read from the environment and the cache's own token file, as huggingface_hub does, and goes to a
trusted endpoint only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pi0q.workers.host.helper_base import HelperProcess
from pi0q.workers.hub import snapshots
from pi0q.workers.hub.errors import HubError, WrongBytes, classify
from pi0q.workers.hub.modelscope import Given
from pi0q.workers.hub.modelscope_client import ModelScope
from pi0q.workers.hub.plans import Plan, blob_of, safe_path
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.network.routes import MODELSCOPE

#: Seconds that the Hub has to say what a repository holds; huggingface_hub would wait for ever.
PATIENCE_SECONDS = 30.0


class HubHelper(HelperProcess):
    """Serves one request over one route."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__(request)
        self.hf_home = Path(request["hf_home"])
        self.endpoint: str = request["endpoint"]
        self.trusted: bool = request["trusted"]
        self.pins: Mapping[str, str] = request["pins"]
        self.fetches = [Fetch.from_json(fetch) for fetch in request["fetches"]]
        self.from_modelscope: bool = request.get("road") == MODELSCOPE
        mirror = "ModelScope" if self.from_modelscope else f"the mirror {self.endpoint.partition('//')[2]}"
        self.where = "the Hub" if self.trusted else mirror
        # None: whatever token this box has.
        self.token: bool | None = None if self.trusted else False

    def import_hub(self) -> None:
        """Import huggingface_hub, which may take a while; from here on silence is the network's."""
        import huggingface_hub  # noqa: F401

        self.emit(alive=0)

    @contextlib.contextmanager
    def reporting(self, n: int, fetch: Fetch) -> Iterator[None]:
        """Report an error of the Hub, the network or the disk as the answer to fetch `n`."""
        try:
            yield
        except HubError as error:
            self.emit(n=n, refused=error.to_json())
        except Exception as error:
            classified = classify(error, f"{fetch.kind} {fetch.repo_id}", fetch.pin, where=self.where)
            if classified is None:
                raise
            self.emit(n=n, refused=classified.to_json())

    def plan(self, n: int, fetch: Fetch) -> Plan | None:
        """Ask what a fetch takes and report it; None if that failed."""
        with self.reporting(n, fetch):
            plan = self._plan_at_modelscope(n, fetch) if self.from_modelscope else self._plan(n, fetch)
            blobs = [[blob.name, blob.size] for blob in plan.files.values()]
            self.emit(n=n, sha=plan.sha, ref=plan.ref, blobs=blobs, paths=list(plan.files), closed=plan.closed)
            return plan
        return None

    @cached_property
    def client(self) -> ModelScope:
        """ModelScope's, made at the first use. Raises HubError."""
        return ModelScope(self.endpoint, self.count)

    def url(self, plan: Plan, path: str) -> str:
        """Return the address of a file."""
        fetch = plan.fetch
        if self.from_modelscope:
            return self.client.url(plan.repo_id, fetch.repo_type, plan.revision, path)
        from huggingface_hub import hf_hub_url

        where: dict[str, Any] = {"repo_type": fetch.repo_type, "revision": plan.sha, "endpoint": self.endpoint}
        return hf_hub_url(fetch.repo_id, path, **where)

    def headers(self) -> dict[str, str]:
        """Return what is sent with a request for a file; the Hub's token goes to the Hub alone."""
        if self.from_modelscope:
            return self.client.headers
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        return build_hf_headers(token=self.token, library_name="pi0q")

    def _plan_at_modelscope(self, n: int, fetch: Fetch) -> Plan:
        given = self.request.get("given", {}).get(str(n))
        if given is not None:
            return self.client.plan_of(n, fetch, Given.from_json(given))
        return self.client.own_plan(n, fetch, self.pins.get(fetch.pin))

    def _plan(self, n: int, fetch: Fetch) -> Plan:
        pin = self.pins.get(fetch.pin)
        try:
            ref, info = self._repo_info(fetch, pin)
        except Exception as error:
            if not (self.trusted and self.token is None and _is_unknown_token(error)):
                raise
            self.emit(say="the Hub no longer accepts this box's token (run `hf auth login`): continuing without it")
            self.token = False
            ref, info = self._repo_info(fetch, pin)
        sha, files = str(info.sha), {}
        if (pin and sha != pin) or not snapshots.COMMIT.fullmatch(sha):
            raise WrongBytes(f"it names commit {sha[:12]}")
        listed = info.siblings or []
        wanted = frozenset(fetch.chosen(file.rfilename for file in listed))
        for file in listed:
            if file.rfilename in wanted:
                name = str(file.lfs.sha256 if file.lfs else file.blob_id)
                files[safe_path(file.rfilename)] = blob_of(name, file.lfs.size if file.lfs else file.size)
        closed = bool(getattr(info, "gated", None) or getattr(info, "private", None))
        return Plan(n=n, fetch=fetch, sha=sha, ref=ref, files=files, closed=closed)

    def _repo_info(self, fetch: Fetch, pin: str | None) -> tuple[str | None, Any]:
        """Return what the Hub holds at the pin, else under the first name that exists, and that name."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RevisionNotFoundError

        api = HfApi(self.endpoint, token=self.token, library_name="pi0q")
        names = [pin] if pin else snapshots.names(fetch)
        for name in names:
            try:
                info = api.repo_info(
                    fetch.repo_id,
                    repo_type=fetch.repo_type,
                    revision=name,
                    files_metadata=True,
                    timeout=PATIENCE_SECONDS,
                )
            except RevisionNotFoundError:
                if name == names[-1]:
                    raise
            else:
                return (None if pin else name), info
        raise AssertionError("the last name either answers or raises")


def _is_unknown_token(error: Exception) -> bool:
    response = getattr(error, "response", None)
    message = response.headers.get("X-Error-Message") if response is not None else ""
    return getattr(response, "status_code", 0) == 401 and message == "Invalid credentials in Authorization header"
