"""Check the routes out of a box, and the accounts behind them: the Hub's token, the gated tokenizer, trackers' keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from urllib.parse import urlsplit

from pi0q.jobs.outcome import Reason
from pi0q.ops import file_edits
from pi0q.ops.checks.finding import CheckTarget, Finding, broken, ok, skipped, warning
from pi0q.ops.checks.install import private
from pi0q.queue.setting_readers import ROADS
from pi0q.workers.host import cache_paths
from pi0q.workers.hub.errors import HubError
from pi0q.workers.hub.requirements import PALIGEMMA, TOKENIZER_FILES, Fetch
from pi0q.workers.network import roads, swanlab_key, wandb_key
from pi0q.workers.network import routes as network

LOGIN = "hf auth login"
TOKENS_PAGE = "https://huggingface.co/settings/tokens"
TOKENIZER = Fetch(kind="tokenizer", repo_id=PALIGEMMA, repo_type="model", patterns=TOKENIZER_FILES)


def check(target: CheckTarget) -> Iterator[Finding]:
    """The network, then what is behind it."""
    if not target.box or target.fault:
        return
    settings, env = target.settings, target.machine.env
    turbo = network.read_turbo(settings.network_turbo)
    routes = roads.roads(settings, env, turbo)
    with ThreadPoolExecutor(max(1, len(routes))) as pool:
        answers = list(pool.map(network.answers_at, routes))
    open_ = [route for route, answer in zip(routes, answers, strict=True) if answer]
    yield ways(routes, open_, turbo=bool(turbo), autodl=target.machine.autodl)
    yield from modelscope(target)
    yield from proxies(env, turbo)
    yield from token(target)
    yield from account(target, [route for route in open_ if route.trusted])
    yield wandb(target)
    yield from swanlab(target)


def ways(routes: tuple[network.Route, ...], open_: list[network.Route], *, turbo: bool, autodl: bool) -> Finding:
    """Which ways lead to the Hub. The run chooses among them by itself."""
    told = ", ".join(f"{route.name} {'answers' if route in open_ else 'does not'}" for route in routes)
    host = next((urlsplit(route.endpoint).hostname for route in reversed(routes) if route.trusted), "the Hub")
    if not routes:
        cure = f"export PI0Q_ROADS={','.join(ROADS)}"
        return broken("network", "this box has none of the roads that PI0Q_ROADS names", cure)
    if not open_:
        cure = "look at the container's network in the console"
        if not turbo:
            cure = (
                "ls -l /etc/network_turbo"
                if autodl
                else "export https_proxy=http://HOST:PORT HF_ENDPOINT=https://hf-mirror.com"
            )
        return broken("network", f"{host} can't be reached: {told}", cure)
    if not any(route.trusted for route in open_):
        cure = "source /etc/network_turbo && curl -I https://huggingface.co (the proxy is down: try again later)"
        only = " and ".join("the mirror" if route.name == "mirror" else "ModelScope" for route in open_)
        return warning("network", f"only {only} answers, which has no gated files ({told})", cure)
    return ok("network", f"{host}: {told}; each run takes what works")


def modelscope(target: CheckTarget) -> Iterator[Finding]:
    """What the settings want of ModelScope, and whether its client is there; nothing where they want nothing."""
    settings = target.settings
    wanted = "PI0Q_ROADS names modelscope" if "modelscope" in settings.roads and "roads" in settings.sources else ""
    if settings.modelscope_tokenizer:
        wanted = "PI0Q_MODELSCOPE_TOKENIZER is on"
    if not wanted:
        return
    if find_spec(roads.PACKAGE) is None:
        yield warning("modelscope", f"{wanted}, and its client is not installed", "pip install 'pi0q[modelscope]'")
        return
    told = "with your MODELSCOPE_API_TOKEN" if target.machine.env.get("MODELSCOPE_API_TOKEN") else "without a token"
    yield ok("modelscope", f"{wanted}: {settings.modelscope}, {told}")


def proxies(env: Mapping[str, str], turbo: Mapping[str, str]) -> Iterator[Finding]:
    """A shell that sourced the turbo file sends all of China's traffic abroad and back."""
    taken = [name for name in ("http_proxy", "https_proxy") if turbo.get(name) and env.get(name) == turbo[name]]
    if taken:
        told = f"this shell has {' and '.join(taken)} from the turbo file: everything goes through it, pip too"
        yield warning("proxy", told, "unset http_proxy https_proxy (pi0q reads the file where it helps)")


def token(target: CheckTarget) -> Iterator[Finding]:
    """Where the token lies: with HF_HOME moved, huggingface_hub looks for it there and nowhere else."""
    home = target.settings.hf_home
    here, login = home / "token", target.machine.user_home / ".cache" / "huggingface" / "token"
    if here.is_file() and here.stat().st_size:
        yield from private("token file", here)
        return
    if target.machine.env.get("HF_TOKEN"):
        told = "HF_TOKEN is set in this shell only: a worker that starts with the machine has none"
        yield warning("token file", told, "pi0q box setup (keeps it in a file of yours alone)")
        return
    if login.is_file():

        def copy() -> str:
            file_edits.write(here, file_edits.read(login), 0o600)
            return f"copied to {here}"

        told = f"it lies in {login}; HF_HOME is {home}, and there is none there"
        yield warning("token file", told, f"install -m 600 {login} {here}", copy)
        return
    cure = f"HF_HOME={home} {LOGIN} (a token from {TOKENS_PAGE})"
    yield broken(
        "token file", "this box has no token of the Hub: gated and private repositories can't be fetched", cure
    )


def account(target: CheckTarget, routes: list[network.Route]) -> Iterator[Finding]:
    """Whether the Hub takes the token, and lets it read pi0's tokenizer."""
    if find_spec("huggingface_hub") is None:
        yield skipped("token", "huggingface_hub is not installed, see `worker parts`")
        return
    if not routes:
        yield skipped("token", "the Hub can't be reached, see `network`")
        return
    # It needs psutil, which the core install lacks.
    from pi0q.workers.hub import access

    env = {**target.machine.env, **cache_paths.caches(target.settings)}
    env.pop("HF_HUB_OFFLINE", None)
    report = access.ask_account(TOKENIZER, target.settings, routes[0], env=env)
    error = report.errors[0] if report.errors else None
    if report.account == "none":
        yield skipped("token", "there is none, see `token file`")
    elif report.account == "refused":
        cure = f"HF_HOME={target.settings.hf_home} {LOGIN} (a new token from {TOKENS_PAGE})"
        yield broken("token", report.account_why, cure)
    elif report.account != "ok":
        yield skipped("token", f"the Hub did not say ({report.account_why or (error.why if error else 'no answer')})")
    else:
        yield ok("token", f"the Hub knows it as {report.user}")
        if target.settings.modelscope_tokenizer and find_spec(roads.PACKAGE) is not None:
            yield ok(
                "gated tokenizer", "PI0Q_MODELSCOPE_TOKENIZER is on: it comes from ModelScope, by hashes of pi0q's"
            )
        else:
            yield gated(error, report.user)


def gated(error: HubError | None, user: str) -> Finding:
    """Whether the account may read pi0's tokenizer, to which each account must be admitted once."""
    name = "gated tokenizer"
    if error is None:
        return ok(name, f"{user} may read {PALIGEMMA}")
    if error.reason is Reason.NEEDS_ACCESS:
        cure = f"open https://huggingface.co/{PALIGEMMA} as {user}, press `Agree and access repository`; a " \
               "fine-grained token needs `read access to public gated repositories` too"  # fmt: skip
        return broken(name, f"{user} may not read {PALIGEMMA}, whose tokenizer every pi0 needs", cure)
    return skipped(name, f"the Hub did not say ({error.why})")


def wandb(target: CheckTarget) -> Finding:
    """The key. A run without one is kept on the box, and never stopped by it."""
    cure = "wandb login (a key from https://wandb.ai/authorize)"
    said = wandb_key.wandb(target.settings, target.machine.env, user_home=target.machine.user_home)
    if said.state == "none":
        return warning("wandb key", "none: runs with wandb.enable have no page in the browser", cure)
    if said.state == "refused":
        return warning("wandb key", "WandB refuses it", cure)
    if said.state == "away":
        return skipped("wandb key", f"{said.host} can't be reached: runs are written on the box meanwhile")
    return ok("wandb key", f"WandB knows it as {said.user}")


def swanlab(target: CheckTarget) -> Iterator[Finding]:
    """The key of SwanLab. Nothing is said where there is none: most boxes need none, and a job that does says so."""
    said = swanlab_key.check(target.settings, target.machine.env, user_home=target.machine.user_home)
    cure = "swanlab login --relogin (a key from https://swanlab.cn/settings)"
    if said.state == "refused":
        yield warning("swanlab key", "SwanLab refuses it: runs of `tracking: swanlab` stay on this box", cure)
    elif said.state == "away":
        yield skipped("swanlab key", f"{said.host} can't be reached: runs are written on the box meanwhile")
    elif said.state == "ok":
        yield ok("swanlab key", f"SwanLab knows it as {said.user}")
