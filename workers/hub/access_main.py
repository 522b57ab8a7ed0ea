"""Helper process that asks the Hub whether a job could run, before any GPU is claimed; nothing is kept of it.

    as in helper_base.py, and "push": "owner/name" or "", "copies": "owner/name" or "", "account": true,
    "meta_dir": where small files of a dataset are put to be looked into, or ""                            on stdin
    {"n": 0, "open": true, "info": {...}, "names": [...]}                        fetch 0 can be had
    {"n": 1, "open": true, "model": {"sha": ..., "names": [...], "contents": {"config.json": "..."}}}
    {"push": "ok" | "refused" | "unknown", "why": ...}
    {"copies": "ok" | "refused" | "public" | "unknown", "why": ...}
    {"account": "ok" | "none" | "refused" | "unknown", "user": ..., "why": ...}  on stdout besides

One file of each repository is requested, since a gated one shows its name and list to anyone; of a dataset
`meta/info.json` is read, of a model the small files by which LeRobot would run code.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0q.jobs.safety.findings import Use
from pi0q.jobs.safety.pretrained import needed
from pi0q.jobs.safety.strict_json import MOST_BYTES
from pi0q.workers.host import helper_base
from pi0q.workers.hub import blobs, snapshots
from pi0q.workers.hub.blobs import Blob
from pi0q.workers.hub.errors import WrongBytes, lacking
from pi0q.workers.hub.helper_base import PATIENCE_SECONDS, HubHelper
from pi0q.workers.hub.modelscope import some
from pi0q.workers.hub.plans import Plan

#: What the files of a fetch are read for; of a base it is not known whether its config.json counts.
USES = {"base": Use.POLICY, "tokenizer": Use.TOKENIZER, "code": Use.CODE, "backbone": Use.TOKENIZER,
        "own backbone": Use.NUMBERS}  # fmt: skip
#: Bytes of a dataset's small files that are read, and paths of it that are told.
MOST_META, MOST_NAMES = 8 << 20, 20_000
#: Roles in an organisation that may push to its repositories.
_WRITERS = frozenset({"admin", "write", "contributor"})
_TOKENS = "https://huggingface.co/settings/tokens"


class AccessHelper(HubHelper):
    """Asks over one route."""

    def run(self) -> None:
        """Ask for the account, for each repository, then for the right to push."""
        self.import_hub()
        if self.request.get("account") and self.trusted:
            state, user, why = self.whose_token()
            self.emit(account=state, user=user, why=why)
        for n, fetch in enumerate(self.fetches):
            if plan := self.plan(n, fetch):
                with self.reporting(n, fetch):
                    self.open(plan)
        for question, ask in (("push", self.may_push), ("copies", self.may_copy)):
            repo_id = self.request.get(question, "")
            if repo_id and self.trusted:
                state, why = ask(repo_id)
                self.emit(**{question: state, "why": why})

    def open(self, plan: Plan) -> None:
        """Request the one file without which the repository is not what is wanted. Raises what the client does."""
        from huggingface_hub import get_hf_file_metadata

        fetch = plan.fetch
        names = [name for name in snapshots.ESSENTIAL[fetch.kind] if name in plan.files]
        if not names:
            error = lacking(f"{fetch.kind} {fetch.repo_id}", snapshots.ESSENTIAL[fetch.kind][0], plan.sha)
            return self.emit(n=plan.n, refused=error.to_json())
        told: dict[str, Any] = {"n": plan.n, "open": True, "uncompared": plan.uncompared}
        if fetch.kind != "dataset":
            if not self.from_modelscope:
                get_hf_file_metadata(self.url(plan, names[0]), token=self.token, timeout=PATIENCE_SECONDS)
            return self.emit(**told, model=self.small_files(plan))
        with tempfile.TemporaryDirectory() as folder:
            # What is to be looked into stays where the parent wants it.
            place = self.request.get("meta_dir") or folder
            file = self.read(plan, names[0], place)
            info = None
            with contextlib.suppress(OSError, ValueError):
                info = json.loads(Path(file).read_text(encoding="utf-8"))
            for name in looked_into(plan.files) if self.request.get("meta_dir") else ():
                self.read(plan, name, place)
        listed = sorted(plan.files) if len(plan.files) <= MOST_NAMES else None
        return self.emit(**told, info=info, names=listed)

    def read(self, plan: Plan, name: str, place: str) -> Path:
        """Download one file below a directory. Raises what the client does, or WrongBytes."""
        fetch = plan.fetch
        if not self.from_modelscope:
            from huggingface_hub import hf_hub_download

            where: dict[str, Any] = {"repo_type": fetch.repo_type, "revision": plan.sha, "endpoint": self.endpoint}
            file = hf_hub_download(fetch.repo_id, name, local_dir=place, token=self.token, library_name="pi0q", **where)
            return Path(file)
        if name in plan.elsewhere:
            raise WrongBytes(f"it lacks {some([name])}, or has other contents there")
        with tempfile.TemporaryDirectory(dir=place) as folder:
            source = blobs.Source(url=self.url(plan, name), headers=self.headers(), count=self.count)
            blobs.download(source, plan.files[name], Path(folder))
            path = Path(place, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Path(folder, plan.files[name].name).replace(path)
        return path

    def small_files(self, plan: Plan) -> dict[str, Any]:
        """Return the names of a model's files, and those that LeRobot makes objects of (as Latin-1: any byte)."""
        contents = {}
        with tempfile.TemporaryDirectory() as folder:
            for name in needed(USES[plan.fetch.kind], plan.files):
                # What is larger is none of LeRobot's, and is refused for not having been read.
                if plan.files[name].size > MOST_BYTES:
                    continue
                contents[name] = self.read(plan, name, folder).read_bytes().decode("latin-1")
        return {"sha": plan.sha, "names": sorted(plan.files), "contents": contents}

    def may_copy(self, repo_id: str) -> tuple[str, str]:
        """Return whether replicas may go to the repository: a private one, or one that does not exist yet."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        state, why = self.may_push(repo_id)
        if state != "ok":
            return state, why
        try:
            info = HfApi(self.endpoint, library_name="pi0q").repo_info(repo_id, timeout=PATIENCE_SECONDS)
        except RepositoryNotFoundError:
            return "ok", ""
        except Exception as error:
            return "unknown", type(error).__name__
        return ("ok", "") if info.private else ("public", "it is public, and copies go to private repositories only")

    def may_push(self, repo_id: str) -> tuple[str, str]:
        """Return whether this box's token may write to the repository, which may not exist yet."""
        from huggingface_hub import get_token

        if not get_token():
            return "refused", "this box has no token of the Hub"
        try:
            answer = self._whoami()
        except Exception as error:
            return _token_error(error)
        why = forbidden(answer, repo_id)
        return "refused" if why else "ok", why

    def whose_token(self) -> tuple[str, str, str]:
        """Return whether the Hub accepts this box's token, whose it is, and why not."""
        from huggingface_hub import get_token

        if not get_token():
            return "none", "", ""
        try:
            return "ok", str(self._whoami().get("name")), ""
        except Exception as error:
            state, why = _token_error(error)
            return state, "", why

    def _whoami(self) -> Mapping[str, Any]:
        from huggingface_hub import HfApi

        return HfApi(self.endpoint, library_name="pi0q").whoami()


def looked_into(files: Mapping[str, Blob]) -> list[str]:
    """Return the files of a dataset by which it is judged (read_dataset_main.py), as far as a few MiB go. Pure."""
    meta = ["meta/stats.json", "meta/tasks.parquet"]
    tables = sorted(name for name in files if name.startswith("meta/episodes/") and name.endswith(".parquet"))
    data = sorted(name for name in files if name.startswith("data/") and name.endswith(".parquet"))
    chosen, left = list[str](), MOST_META
    for name in (name for name in (*meta, *tables) if name in files):
        left -= files[name].size
        # A part of the table of episodes would look like a table that lacks some.
        if left < 0:
            return [one for one in chosen if one in meta]
        chosen.append(name)
    # The first rows of a dataset with images are too large, as a rule.
    return [*chosen, data[0]] if data and files[data[0]].size <= left else chosen


def _token_error(error: Exception) -> tuple[str, str]:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return "refused", "the Hub refuses this box's token: it is wrong, or was revoked"
    # Its text can hold what was sent.
    return "unknown", type(error).__name__


@dataclass(frozen=True, kw_only=True)
class _Token:
    """What the Hub says of a token, and where one wants to push with it."""

    repo_id: str
    user: str
    #: The user's role in each organisation; "" where the Hub does not say.
    roles: Mapping[str, str]
    access: Mapping[str, Any]

    @property
    def owner(self) -> str:
        return self.repo_id.partition("/")[0]

    @property
    def role(self) -> str:
        """The user's role at the repository's owner."""
        return "admin" if self.owner == self.user else self.roles.get(self.owner, "")

    def is_foreign(self) -> bool:
        return self.owner not in (self.user, *self.roles)

    def is_reader(self) -> bool:
        return bool(self.role) and self.role not in _WRITERS

    def is_read_only(self) -> bool:
        return self.access.get("role") == "read"

    def lacks_scope(self) -> bool:
        """Whether a fine-grained token holds no right to write there."""
        if self.access.get("role") != "fineGrained":
            return False
        scopes = (self.access.get("fineGrained") or {}).get("scoped") or ()
        return not any(
            (scope.get("entity") or {}).get("name") in (self.owner, self.repo_id)
            and "repo.write" in (scope.get("permissions") or ())
            for scope in scopes
        )


#: Why a push is forbidden; the first that applies.
_OBSTACLES: tuple[tuple[Callable[[_Token], bool], str], ...] = (
    (_Token.is_foreign, "this box's token belongs to {user}, who is not a member of {owner}"),
    (_Token.is_reader, "{user} has only the role `{role}` in {owner}"),
    (_Token.is_read_only, "this box's token of {user} is read-only: create one with write access on " + _TOKENS),
    (
        _Token.lacks_scope,
        "this box's fine-grained token of {user} may not write to {owner}'s repositories: allow it on " + _TOKENS,
    ),
)


def forbidden(answer: Mapping[str, Any], repo_id: str) -> str:
    """Return why the owner of a token may not push to a repository, by the Hub's `whoami`; "" if they may. Pure."""
    token = _Token(
        repo_id=repo_id,
        user=str(answer.get("name")),
        roles={str(org.get("name")): str(org.get("roleInOrg") or "") for org in answer.get("orgs") or ()},
        access=(answer.get("auth") or {}).get("accessToken") or {},
    )
    why = next((why for applies, why in _OBSTACLES if applies(token)), "")
    return why.format(user=token.user, owner=token.owner, role=token.role)


def main() -> None:
    helper_base.main(AccessHelper)


if __name__ == "__main__":
    main()
