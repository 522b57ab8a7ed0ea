"""Take secrets and names out of what a user shows to others. The same name gets the same stand-in everywhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

#: Secrets by their form: Hub tokens, WandB keys (40 hexadecimal digits, as a commit), GitHub, OpenAI, AWS, Slack and
#: JSON web tokens, a private key, user and password in an address, and what follows a word for a secret.
SECRETS = re.compile(
    r"hf_[A-Za-z0-9]{10,}|wandb_v1_\w+|(?<![0-9a-fA-F])[0-9a-f]{40}(?![0-9a-fA-F])|gh[pousr]_[A-Za-z0-9]{20,}|"
    r"github_pat_\w{20,}|sk-[\w-]{16,}|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,}|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]+)?|"
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END[^-]*-----)?|(?<=://)[^/@\s'\"]*@(?=[^\s])|"
    r"(?i:(?<=bearer )|(?<=basic ))[\w.~+/=-]{8,}|"
    r"(?i:(?:password|passwd|secret|token|api[_-]?key|access[_-]?key|signature|credential|x-amz-[a-z-]+|authorization)"
    r"[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;}]{4,}"
)  # fmt: skip
_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_IP = re.compile(r"(?<![\d.])(?!127\.|0\.0\.0\.0)(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
#: A user's directory, the part after which is the user's name.
_USER_HOME = re.compile(r"(?<![\w.-])(/home/|/Users/|/mnt/[a-z]/Users/|[A-Z]:\\Users\\)([^/\\\s'\":]+)")
#: A user and a host, as a shell's prompt and pi0q's own history have them.
_AT = re.compile(r"(?<![\w./:@-])([A-Za-z][\w.-]*)@([A-Za-z][\w-]*)")
#: A repository where the address or the cache's directory shows that it is one: the owner is a name.
_OWNERS = re.compile(
    r"((?:datasets|models|spaces)--)([\w.-]+?)(?=--)|(/api/(?:datasets|models|spaces)/|huggingface\.co/(?:datasets/|spaces/)?|"
    r"hf\.co/(?:datasets/)?|hf-mirror\.com/(?:datasets/)?|hf://(?:datasets/)?)([\w.-]+)(?=/[\w.-])|(wandb\.ai/)([\w.-]+)(?=/)|"
    r"(https?://[^\s/'\"]+/(?:datasets/)?)([\w.-]+)(?=/[\w.-]+/resolve/)"
)  # fmt: skip
#: Owners whose repositories everybody knows, and which say what was trained.
PUBLIC = frozenset({
    "lerobot", "google", "huggingface", "huggingfacetb", "nvidia", "facebook", "meta-llama", "microsoft", "openai",
    "qwen", "physical-intelligence", "timm", "api", "datasets", "models", "docs", "resolve", "local",
})  # fmt: skip
#: Names that are words of every log.
COMMON = frozenset(
    {"root", "user", "users", "admin", "ubuntu", "home", "data", "localhost", "train", "pi0", "act", "main"}
)
#: Shorter names are found in other words.
SHORTEST = 3


class Redactor:
    """Replaces what it was told of, and what it finds by its form. Counts what it replaced."""

    def __init__(self) -> None:
        #: Name in lower case -> its stand-in.
        self._names: dict[str, str] = {}
        self._numbers = Counter[str]()
        self._pattern: re.Pattern[str] | None = None
        #: Kind -> how often one was replaced.
        self.replaced = Counter[str]()

    def name(self, text: str | None, kind: str) -> None:
        """Take out this name from now on; words of every log and public owners stay."""
        key = (text or "").strip().lower()
        if len(key) < SHORTEST or key in COMMON or key in self._names or (kind == "owner" and key in PUBLIC):
            return
        self._numbers[kind] += 1
        self._names[key] = f"<{kind}-{self._numbers[kind]}>"
        self._compile()

    def _compile(self) -> None:
        # The longest first: a host's name may hold its user's.
        names = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile(
            r"(?<![A-Za-z0-9])(?:" + "|".join(map(re.escape, names)) + r")(?![A-Za-z0-9])", re.IGNORECASE
        )

    def path(self, text: str | None, stand_in: str) -> None:
        """Take out this directory from now on, as `$PI0Q_HOME`."""
        key = (text or "").rstrip("/")
        if key.count("/") > 1 and key.lower() not in self._names:
            self._names[key.lower()] = stand_in
            self._compile()

    def repository(self, text: object) -> None:
        """Take out the owner of a repository, as `owner/name`; a path has none."""
        owner, slash, name = str(text or "").removeprefix("hf://").partition("/")
        if slash and name and re.fullmatch(r"[\w.-]+", owner):
            self.name(owner, "owner")

    def learn(self, texts: Iterable[str]) -> None:
        """Find owners, users and entities by the form of what is around them, so that they go wherever they stand."""
        for text in texts:
            for found in _USER_HOME.finditer(text):
                self.name(found[2], "user")
            for found in _AT.finditer(text):
                self.name(found[1], "user")
                self.name(found[2], "host")
            for found in _OWNERS.finditer(text):
                parts = found.groups()
                kind = "entity" if found[5] else "owner"
                self.name(next((name for name in parts[1::2] if name), None), kind)

    def text(self, text: str) -> str:
        """Return the text without secrets and names."""
        text = self._sub(SECRETS, self._secret, text, "secret")
        text = self._sub(_ADDRESS, "<address>", text, "address")
        text = self._sub(_IP, "<ip>", text, "ip")
        if self._pattern is None:
            return text
        return self._pattern.sub(self._named, text)

    def value(self, value: Any) -> Any:
        """Return a value of JSON with every text in it, keys included, redacted."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (list, tuple)):
            return [self.value(one) for one in value]
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(one) for key, one in value.items()}
        return value

    def _named(self, found: re.Match[str]) -> str:
        stand_in = self._names[found[0].lower()]
        self.replaced[stand_in.strip("<>$").partition("-")[0]] += 1
        return stand_in

    @staticmethod
    def _secret(found: re.Match[str]) -> str:
        # The word before a secret says what it was.
        word = re.match(r"(?i)([\w-]+[\"']?\s*[=:]\s*[\"']?)", found[0])
        return f"{word[1] if word else ''}<secret>{'@' if found[0].endswith('@') else ''}"

    def _sub(self, pattern: re.Pattern[str], stand_in: Any, text: str, kind: str) -> str:
        changed, count = pattern.subn(stand_in, text)
        self.replaced[kind] += count
        return changed
