"""Lists of files and addresses at ModelScope, by its own client; in helper processes alone.

Of the client (modelscope-hub) only the list is used: it pages through datasets, walks past the length at which the
server cuts a list, and repeats a page that was refused by mistake. Its downloads are left alone: they know nothing of
the Hub's hashes and lay every file into a cache of their own, where 14 GB would be hashed and moved once more. Its
higher classes would write an id of this installation below ~/.modelscope, send it with each request, and take a token
that they find there in a pickle; `LegacyClient`, told token and name, does none of this.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pi0q.jobs.outcome import Reason
from pi0q.workers.hub import modelscope, snapshots
from pi0q.workers.hub.errors import HubError, WrongBytes
from pi0q.workers.hub.modelscope import Entry, Given
from pi0q.workers.hub.plans import Plan, blob_of, safe_path
from pi0q.workers.hub.requirements import Fetch

#: Begins with the client's own name, or it would add a description of this machine.
USER_AGENT = "modelscope_hub/0.5; pi0q"
TOKEN = "MODELSCOPE_API_TOKEN"


class ModelScope:
    """Reads repositories at one address."""

    def __init__(self, endpoint: str, count: Callable[[int], None], env: Mapping[str, str] = os.environ) -> None:
        """`count`: called while a list comes. Raises HubError where the installed client is another than expected."""
        try:
            from modelscope_hub._legacy_api import LegacyClient

            logging.getLogger("modelscope_hub").setLevel(logging.ERROR)
            self._client = LegacyClient(env.get(TOKEN) or None, endpoint, user_agent=USER_AGENT)
        except (ImportError, TypeError) as error:
            raise HubError(
                reason=Reason.NETWORK,
                why=f"the installed modelscope-hub can't be used ({type(error).__name__})",
                fix="pip install 'pi0q[modelscope]' on the box",
            ) from None
        self._count = count
        self.headers = {"user-agent": USER_AGENT}
        if token := env.get(TOKEN):
            self.headers["Authorization"] = f"Bearer {token}"

    def files(self, repo_id: str, repo_type: str, revision: str) -> dict[str, Entry]:
        """Return the files at a revision by path; none where it does not exist. Raises HubError, WrongBytes."""
        try:
            return modelscope.entries(self._listed(repo_id, repo_type, revision))
        except (AttributeError, KeyError, TypeError) as error:
            raise WrongBytes("its list of files can't be read") from error
        except Exception as error:
            raise _told(error, f"{repo_type} {repo_id}") or error from None

    def _listed(self, repo_id: str, repo_type: str, revision: str) -> Iterator[Mapping[str, Any]]:
        if repo_type == "dataset":
            for _, page, error in self._client.iter_dataset_file_pages(repo_id, revision):
                if error is not None:
                    raise error
                self._count(1)
                yield from page
            return
        yield from self._client.list_repo_files(repo_id, repo_type, revision)
        if getattr(self._client._read_state, "listing_incomplete", False):
            raise WrongBytes("its list of files is cut")

    def url(self, repo_id: str, repo_type: str, revision: str, path: str) -> str:
        return str(self._client.get_download_url(repo_id, repo_type, path, revision))

    def plan_of(self, n: int, fetch: Fetch, given: Given) -> Plan:
        """Return which of the files that someone else named are to be had here. Raises HubError, WrongBytes."""
        repo_id, what = given.repo_id or fetch.repo_id, f"{fetch.kind} {fetch.repo_id}"
        revision, listed = self._first(fetch, repo_id, modelscope.names(fetch))
        if not listed:
            raise absent(what)
        given = given.without(modelscope.OPTIONAL - set(listed) if given.repo_id else frozenset())
        files = {safe_path(path): blob_of(blob.name, blob.size) for path, blob in given.files.items()}
        elsewhere = modelscope.differing(given, listed)
        if len(elsewhere) == len(files):
            raise WrongBytes("all its files are others there")
        return Plan(
            n=n, fetch=fetch, sha=given.sha, ref=given.ref, files=files,
            repo_id=repo_id, revision=revision, elsewhere=elsewhere,
        )  # fmt: skip

    def own_plan(self, n: int, fetch: Fetch, pin: str | None) -> Plan:
        """Return what ModelScope itself says, at an earlier commit of its own or now. Raises HubError, WrongBytes."""
        names = modelscope.names(fetch)
        revision, listed = self._first(fetch, fetch.repo_id, [*([pin] if pin else []), *names])
        sha = pin if revision == pin and pin else modelscope.own_commit(listed)
        if not listed or pin not in (None, sha):
            raise absent(f"{fetch.kind} {fetch.repo_id}" + (f" at its commit {pin[:8]}" if pin else ""))
        files = {safe_path(path): blob for path, blob in modelscope.own_files(fetch, listed).items()}
        named = any(entry.commit == sha for entry in listed.values())
        ref = None if pin else snapshots.names(fetch)[names.index(revision)]
        return Plan(
            n=n, fetch=fetch, sha=sha, ref=ref, files=files,
            repo_id=fetch.repo_id, revision=sha if named else revision, uncompared=True,
        )  # fmt: skip

    def _first(self, fetch: Fetch, repo_id: str, revisions: Sequence[str]) -> tuple[str, dict[str, Entry]]:
        """Return the first revision that exists and its files; nothing where none does."""
        for revision in revisions:
            if listed := self.files(repo_id, fetch.repo_type, revision):
                return revision, listed
        return "", {}


def absent(what: str) -> HubError:
    """Return the error of what ModelScope does not have."""
    return HubError(reason=Reason.NETWORK, why=f"ModelScope does not have {what}")


def _told(error: Exception, what: str) -> HubError | None:
    """Return what an error of the client means; None if it is not the client's."""
    from modelscope_hub import errors

    if isinstance(error, errors.NotExistError):
        return absent(what)
    if not isinstance(error, errors.HubError):
        return None
    status = getattr(error, "status_code", None)
    # Class and status only: the text holds addresses, and what the server likes to say.
    return HubError(
        reason=Reason.NETWORK,
        why=f"ModelScope did not list the files of {what} ({f'HTTP {status}' if status else type(error).__name__})",
        asked_seconds=min(3600.0, max(0.0, float(getattr(error, "retry_after", None) or 0))),
    )
