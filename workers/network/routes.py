"""How a box reaches the Hugging Face Hub, GitHub and WandB: over a mirror, AutoDL's proxy, or directly.

    hub_routes -> Ways.order -> Route.environment          environment(("hub", "wandb"), env, settings)

Only child processes that talk to those places get what is chosen here; this process's own environment stays as
it is. The way that worked is remembered in `PI0Q_HOME/network.json` and looked for again once it fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from pi0q.queue.settings import Settings

#: Seconds that an address has to answer before another way to it is taken.
PROBE_SECONDS = 6.0
#: Bytes of the turbo file that are looked at; AutoDL's has 300.
TURBO_BYTES = 64 * 1024
GITHUB = "https://github.com"
WANDB = "https://api.wandb.ai"

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH")
#: ModelScope's, which goes nowhere else.
_MODELSCOPE_TOKEN = "MODELSCOPE_API_TOKEN"
#: The name of the route to ModelScope, see roads.py.
MODELSCOPE = "modelscope"
_PROXY = re.compile(r"(?:https?|socks5h?)://[^\s\"'`$]+")


@dataclass(frozen=True, kw_only=True)
class Route:
    """One way to one place."""

    #: "mirror", "turbo", "direct" or "modelscope".
    name: str
    #: The address at its end.
    endpoint: str
    #: Whether this box's token may go there.
    trusted: bool = True
    #: Proxies, certificates and `no_proxy`, as they stand in the turbo file or in the box's own environment.
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base` for a child process that takes this way to the Hub."""
        env = _with(base, self.variables) | {"HF_ENDPOINT": self.endpoint}
        if not self.trusted:
            for name in _TOKENS:
                env.pop(name, None)
            # Xet's data does not come over the mirror: huggingface_hub would fetch it from the Hub's own store.
            env |= {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_TOKEN_PATH": os.devnull, "HF_HUB_DISABLE_XET": "1"}
        if self.name != MODELSCOPE:
            env.pop(_MODELSCOPE_TOKEN, None)
        return env


def parse_turbo(text: str) -> dict[str, str]:
    """The proxies and certificates that a file of shell exports names; everything else in it is passed over.

    Parsed, never run: it comes from outside and the shell would know our secrets.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            words = shlex.shlex(line, posix=True, punctuation_chars=";&|")
            words.whitespace_split = True
            command: list[str] = []
            for word in [*words, ";"]:
                if set(word) - set(";&|"):
                    command.append(word)
                    continue
                if command[:1] == ["export"]:
                    found |= _exports(command[1:], found)
                command = []
    return found


def _exports(words: Iterable[str], known: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if reference := re.fullmatch(r"\$\{?(\w+)\}?", value):
            value = known.get(_plain(reference[1]), "")
        if _is_good(_plain(name), value):
            found[_plain(name)] = value
    return found


def _plain(name: str) -> str:
    """Proxies by their lower-case name, under which they are kept here."""
    return name.lower() if name.lower() in (*_PROXIES, "no_proxy") else name


def _is_good(name: str, value: str) -> bool:
    if name in _PROXIES:
        return bool(_PROXY.fullmatch(value))
    if name in _CERTIFICATES:
        return bool(re.fullmatch(r"/[\w./+-]+", value))
    return name == "no_proxy" and bool(re.fullmatch(r"[\w.,:*\[\]/ -]+", value))


def read_turbo(path: Path) -> dict[str, str]:
    """What the file exports; empty if it can't be read. A certificate file that is not there is left out."""
    try:
        with path.open("rb") as file:
            found = parse_turbo(file.read(TURBO_BYTES).decode("utf-8", "replace"))
    except OSError:
        return {}
    return {name: value for name, value in found.items() if name not in _CERTIFICATES or Path(value).is_file()}


def own(env: Mapping[str, str], turbo: Mapping[str, str]) -> dict[str, str]:
    """The proxies and certificates of the environment itself, without what a shell took from the turbo file."""
    kept: dict[str, str] = {}
    for name in (*_PROXIES, "no_proxy", *_CERTIFICATES):
        value = env.get(name) or env.get(name.upper())
        if value and value != turbo.get(name):
            kept[name] = value
    return kept


def completed(no_proxy: str, hosts: Iterable[str]) -> str:
    """`no_proxy` with this machine and these hosts in it, each once."""
    given = [part.strip() for part in no_proxy.split(",")]
    return ",".join(dict.fromkeys(filter(None, [*given, "localhost", "127.0.0.1", "::1", *hosts])))


def ways(endpoint: str, settings: Settings, env: Mapping[str, str], turbo: Mapping[str, str]) -> tuple[Route, ...]:
    """Ways to an address outside: over the turbo file's proxy if there is one, and as the box's environment has it."""
    broker, mirror = (urlsplit(address).hostname or "" for address in (settings.redis_url, settings.hf_mirror))
    plain = own(env, turbo)
    if set(plain) & set(_PROXIES):
        plain["no_proxy"] = completed(plain.get("no_proxy", ""), [broker])
    routes = [Route(name="direct", endpoint=endpoint, variables=plain)]
    if set(turbo) & set(_PROXIES):
        told = ",".join(filter(None, [turbo.get("no_proxy", ""), plain.get("no_proxy", "")]))
        # The mirror is near; over the proxy it would be slow.
        fast = plain | dict(turbo) | {"no_proxy": completed(told, [broker, mirror])}
        routes.insert(0, Route(name="turbo", endpoint=endpoint, variables=fast))
    return tuple(routes)


def hub_routes(settings: Settings, env: Mapping[str, str], turbo: Mapping[str, str]) -> tuple[Route, ...]:
    """Every way to what the Hub holds, the likeliest to be fast first; only the Hub itself is trusted."""
    there = ways(settings.hf_endpoint, settings, env, turbo)
    if not settings.hf_mirror:
        return there
    mirror = Route(name="mirror", endpoint=settings.hf_mirror, trusted=False, variables=there[-1].variables)
    return (mirror, *there)


class Ways:
    """The ways of this box to one place, the one that worked last first."""

    def __init__(self, place: str, routes: Sequence[Route], home: Path) -> None:
        self.place, self.routes = place, tuple(routes)
        self._file = home / "network.json"

    def order(self) -> tuple[Route, ...]:
        """Ways worth trying, best first: the remembered one first; where none is, only those that answer.

        If none answers they are all given, for the error that a try will bring.
        """
        if len(self.routes) < 2:
            return self.routes
        name = self._memory().get(self.place)
        if first := [route for route in self.routes if route.name == name]:
            return (*first, *(route for route in self.routes if route.name != name))
        return self.probed()

    def probed(self) -> tuple[Route, ...]:
        """Those that answer now, in their order, all at once asked; all of them if none does."""
        with ThreadPoolExecutor(len(self.routes)) as pool:
            answers = list(pool.map(answers_at, self.routes))
        return tuple(route for route, here in zip(self.routes, answers, strict=True) if here) or self.routes

    def best(self) -> Route:
        """The remembered way if it answers, else the first that does; it is remembered."""
        first = self.order()[0]
        if len(self.routes) > 1 and first.name == self._memory().get(self.place) and not answers_at(first):
            first = self.probed()[0]
        self.remember(first)
        return first

    def remember(self, route: Route) -> None:
        """This way worked: it comes first from now on."""
        self._write(route.name)

    def forget(self, route: Route) -> None:
        """This way did not work: if it was the remembered one, all are looked at again."""
        if self._memory().get(self.place) == route.name:
            self._write(None)

    def _write(self, name: str | None) -> None:
        known = self._memory()
        if len(self.routes) < 2 or known.get(self.place) == name:
            return
        known = {place: way for place, way in {**known, self.place: name}.items() if way}
        fresh = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        # It only saves a look around.
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(known))
            fresh.replace(self._file)

    def _memory(self) -> dict[str, str | None]:
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self._file.read_text(encoding="utf-8"))
            return dict(known) if isinstance(known, dict) else {}
        return {}


def answers_at(route: Route) -> bool:
    """Return whether anything that speaks HTTP answers there, be it with a refusal; a broken proxy is no answer."""
    try:
        open(route, urllib.request.Request(route.endpoint + "/", method="HEAD"), timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError as answer:
        answer.close()
        return answer.code < 500 and answer.code != 407
    except (OSError, ValueError):
        return False
    return True


def open(route: Route, request: urllib.request.Request, *, timeout: float) -> HTTPResponse:
    """Send a request over a route: through its proxy, or past it, and with its certificates.

    A redirect is not followed: it raises HTTPError, as any answer but 2xx does. Raises OSError and ValueError where
    there is no answer.
    """
    tls = ssl.create_default_context(cafile=route.variables.get("SSL_CERT_FILE"))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler(_proxies(route)), urllib.request.HTTPSHandler(context=tls), _KeepHost
    )
    response: HTTPResponse = opener.open(request, timeout=timeout)
    return response


def _proxies(route: Route) -> dict[str, str]:
    """Return the proxy of each URL scheme; empty where `no_proxy` excepts the route's host."""
    host = urlsplit(route.endpoint).hostname or ""
    excepted = {"no": route.variables.get("no_proxy", "")}
    if urllib.request.proxy_bypass_environment(host, excepted):  # type: ignore[attr-defined]
        return {}
    proxies = {
        name.partition("_")[0]: value
        for name, value in route.variables.items()
        # urllib speaks no SOCKS: past such a proxy the host may still answer.
        if name in _PROXIES and not value.startswith("socks")
    }
    # urllib does not know `all_proxy`; curl, requests and httpx do.
    fallback = proxies.pop("all", "")
    return {scheme: fallback for scheme in ("http", "https") if fallback} | proxies


class _KeepHost(urllib.request.HTTPRedirectHandler):
    """Take a redirect as the answer: the host that it names must not be sent the key."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def _with(base: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """`base` with these proxies and no others, in both spellings: Go looks for the upper-case one first."""
    names = (*_PROXIES, "no_proxy")
    gone = {*names, *(name.upper() for name in names), *_CERTIFICATES}
    env = {name: value for name, value in base.items() if name not in gone} | dict(variables)
    return env | {name.upper(): value for name, value in variables.items() if name in names}


def environment(places: str | Sequence[str], env: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """`env` for a child process that talks to some of these places; for none, without AutoDL's proxy.

    "hub" is the Hub itself, where one pushes to; "files" what it holds, for which its mirror will do, without the
    token, where the Hub does not answer; "github" and "wandb". Where several ways are open they are probed: up to
    `PROBE_SECONDS` a place, nearly nothing once one is known.
    """
    turbo = read_turbo(settings.network_turbo)
    plain = own(env, turbo)
    routes = {
        "hub": ways(settings.hf_endpoint, settings, env, turbo),
        "files": tuple(sorted(hub_routes(settings, env, turbo), key=lambda route: not route.trusted)),
        "github": ways(GITHUB, settings, env, turbo),
        "wandb": ways(env.get("WANDB_BASE_URL") or WANDB, settings, env, turbo),
    }
    asked = [places] if isinstance(places, str) else places
    taken = [Ways(place, routes[place], settings.home).best() for place in asked]
    variables = next((dict(route.variables) for route in taken if route.name == "turbo"), plain)
    if variables != plain:
        straight = [urlsplit(route.endpoint).hostname or "" for route in taken if route.name != "turbo"]
        variables["no_proxy"] = completed(variables["no_proxy"], straight)
    hub = next((route for route in taken if not route.trusted), Route(name="direct", endpoint=settings.hf_endpoint))
    return _with(hub.environment(env), variables)


def each(public: Ways, hub: Ways) -> Iterator[Route]:
    """Every way once: the best for public files, then the best for the others; known only when it is asked for."""
    # There may be none at all: the settings exclude what they like.
    ordered = public.order()
    first, others = ordered[:1], ordered[1:]
    yield from first
    trusted = hub.order()
    taken = {route.name for route in first}
    yield from (route for route in trusted if route.name not in taken)
    taken |= {route.name for route in trusted}
    yield from (route for route in others if route.name not in taken)


def named(route: Route) -> str:
    """Return a route as text."""
    names = {"mirror": "over the mirror", "turbo": "over AutoDL's proxy", MODELSCOPE: "from ModelScope"}
    return names.get(route.name, "directly from the Hub")


def offline() -> bool:
    """Whether this box's owner wants nothing asked of the Hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
