"""What the box's owner allows jobs to read: repositories (PI0Q_ALLOW_REPOS) and directories (PI0Q_WEIGHTS_ROOTS)."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from pi0q.jobs.estimates import policy_sizes
from pi0q.jobs.schema import backbones
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.host import places
from pi0q.workers.hub import requirements


def problems(spec: Spec, settings: Settings) -> Iterator[str]:
    """Yield what this job asks for and this box's owner does not allow."""
    for repository in _repositories(spec):
        if settings.allow_repos and not any(fnmatchcase(repository, name) for name in settings.allow_repos):
            listed = ", ".join(settings.allow_repos)
            yield f"repository {repository} is none of those that this box allows ({listed}; PI0Q_ALLOW_REPOS)"
    if why := weights_problem(spec, settings):
        yield f"weights: {why}"


def weights_problem(spec: Spec, settings: Settings) -> str:
    """Return why the job may not start from the directory that it names; "" if it may, or names none."""
    base = policy_sizes.base(spec)
    if not base or not base.startswith("/"):
        return ""
    own = (settings.home, settings.hf_home)
    if any(Path(base).resolve().is_relative_to(tree.resolve()) for tree in own):
        return ""
    return places.refusal(Path(base), settings.weights_roots, setting="PI0Q_WEIGHTS_ROOTS")


def _repositories(spec: Spec) -> list[str]:
    """The repositories that the file names; not those that LeRobot names for a policy."""
    named = [fetch.repo_id for fetch in requirements.wanted(spec, resuming=False) if fetch.kind in ("dataset", "base")]
    return [*named, *backbones.named(spec.train)]
