"""The process that asks the Hub, before any GPU is claimed, whether a job could be run: nothing is kept of it.

    as for download.py, and "push": "owner/name" or "", "copies": "owner/name" or ""     on stdin
    {"n": 0, "sha": ..., ...}  {"n": 0, "open": true, "info": {...}} | {"n": 0, "refused": {...}}
    {"push": "ok" | "refused" | "unknown", "why": ...}
    {"copies": "ok" | "refused" | "public" | "unknown", "why": ...}     on stdout, a line each

A file of each repository is asked for, since a gated one shows its name and list to anyone; of a dataset
`meta/info.json` is read.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi0q.workers.run import download, snapshots
from pi0q.workers.run.refusals import lacking

#: Roles in an organisation that may push to its repositories.
_WRITERS = frozenset({"admin", "write", "contributor"})
_TOKENS = "https://huggingface.co/settings/tokens"


class Inquiry(download.Desk):
    """One list of questions over one way."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        super().__init__(order)
        self.push: str = order.get("push", "")
        self.copies: str = order.get("copies", "")

    def run(self) -> None:
        """Asks for each repository, then for the right to push."""
        import huggingface_hub  # noqa: F401

        self.tell(alive=0)
        for n, fetch in enumerate(self.fetches):
            if plan := self.planned(n, fetch):
                with self.told(n, fetch):
                    self.open(plan)
        if self.push and self.trusted:
            said, why = self.may_push(self.push)
            self.tell(push=said, why=why)
        if self.copies and self.trusted:
            said, why = self.may_copy(self.copies)
            self.tell(copies=said, why=why)

    def open(self, plan: download.Plan) -> None:
        """Asks for the one file without which the repository is not what is wanted; a refusal is raised."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        fetch = plan.fetch
        names = [name for name in snapshots.ESSENTIAL[fetch.kind] if name in plan.files]
        if not names:
            refused = lacking(f"{fetch.kind} {fetch.repo_id}", snapshots.ESSENTIAL[fetch.kind][0], plan.sha)
            return self.tell(n=plan.n, refused=refused.to_json())
        where: dict[str, Any] = {"repo_type": fetch.repo_type, "revision": plan.sha, "endpoint": self.endpoint}
        if fetch.kind != "dataset":
            get_hf_file_metadata(
                hf_hub_url(fetch.repo_id, names[0], **where), token=self.token, timeout=download.PATIENCE_SECONDS
            )
            return self.tell(n=plan.n, open=True)
        with tempfile.TemporaryDirectory() as place:
            file = hf_hub_download(
                fetch.repo_id, names[0], local_dir=place, token=self.token, library_name="pi0q", **where
            )
            info = None
            with contextlib.suppress(OSError, ValueError):
                info = json.loads(Path(file).read_text(encoding="utf-8"))
        return self.tell(n=plan.n, open=True, info=info)

    def may_copy(self, repo_id: str) -> tuple[str, str]:
        """Whether copies of checkpoints may go to the repository: a private one, or one that is still to be made."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        said, why = self.may_push(repo_id)
        if said != "ok":
            return said, why
        try:
            info = HfApi(self.endpoint, library_name="pi0q").repo_info(repo_id, timeout=download.PATIENCE_SECONDS)
        except RepositoryNotFoundError:
            return "ok", ""
        except Exception as error:
            return "unknown", type(error).__name__
        return ("ok", "") if info.private else ("public", "it is public, and copies go to private repositories only")

    def may_push(self, repo_id: str) -> tuple[str, str]:
        """Whether this box's token may write to the repository, which may not exist yet."""
        from huggingface_hub import HfApi, get_token

        if not get_token():
            return "refused", "this box has no token of the Hub"
        try:
            who = HfApi(self.endpoint, library_name="pi0q").whoami()
        except Exception as error:
            code = getattr(getattr(error, "response", None), "status_code", None)
            if code in (401, 403):
                return "refused", "the Hub refuses this box's token: it is wrong, or was revoked"
            # Its text can hold what was sent.
            return "unknown", type(error).__name__
        why = forbidden(who, repo_id)
        return "refused" if why else "ok", why


def forbidden(who: Mapping[str, Any], repo_id: str) -> str:
    """Why the owner of a token may not push there, by what the Hub says of both; "" if they may. Pure."""
    owner, user = repo_id.partition("/")[0], str(who.get("name"))
    orgs = {str(org.get("name")): str(org.get("roleInOrg") or "") for org in who.get("orgs") or ()}
    if owner != user and owner not in orgs:
        return f"this box's token is {user}'s, who is no member of {owner}"
    if owner != user and orgs[owner] and orgs[owner] not in _WRITERS:
        return f"{user} may only {orgs[owner]} in {owner}"
    token = (who.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        return f"this box's token of {user} may only read: make one that may write on {_TOKENS}"
    if token.get("role") != "fineGrained":
        return ""
    scopes = (token.get("fineGrained") or {}).get("scoped") or ()
    names = {owner, repo_id}
    for scope in scopes:
        if (scope.get("entity") or {}).get("name") in names and "repo.write" in (scope.get("permissions") or ()):
            return ""
    return f"this box's fine-grained token of {user} may not write to {owner}'s repositories: allow it on {_TOKENS}"


def main() -> None:
    download.main(Inquiry)


if __name__ == "__main__":
    main()
