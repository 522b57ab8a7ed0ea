"""Settings: environment variables `PI0Q_*` over `~/.config/pi0q/config.toml` over the defaults.

Where nothing names a server, that of a `pi0q up` on this machine is meant. The same
names serve both: `PI0Q_REDIS_URL=…` in the environment is `redis_url = "…"` in the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pi0q.jobs.errors import UsageError
from pi0q.queue import idle_policy, server_address, tls
from pi0q.queue import timing as times
from pi0q.queue.retention import Retention
from pi0q.queue.setting_readers import READERS, ROADS, box_name, mirror_address

#: AutoDL's data disk; everything of pi0q lives there where it exists.
AUTODL_DATA = Path("/root/autodl-tmp")
#: The mirror that AutoDL's boxes reach without help; the Hub itself they don't.
AUTODL_MIRROR = "https://hf-mirror.com"
#: What the TensorBoard of AutoDL's images shows, in the panel and at port 6007.
AUTODL_TENSORBOARD = Path("/root/tf-logs")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set. A user must know `redis_url`; the rest has defaults."""

    #: Where the queue lives: redis://[user:password@]host:port/db, rediss:// for TLS, unix:// for a socket.
    redis_url: str = "redis://127.0.0.1:6379/0"
    #: Directory with ca.pem, cert.pem and key.pem for a rediss:// server; left out: `tls` beside the settings file.
    tls: Path | None = None
    #: Keys of one installation start with this.
    prefix: str = "pi0q:"
    #: Where a box keeps its runs and caches.
    home: Path = Path()
    #: The Hugging Face cache on the data disk; $HF_HOME where that is set, else below `home`.
    hf_home: Path = Path()
    #: This box's name; its host name when left out.
    box: str = ""
    #: Seconds that a claim holds without being renewed.
    lease_seconds: float = 600.0
    #: Part of the lease after which a runner that can't renew it saves and stops.
    fence: float = 0.8
    #: Seconds that a job waits for the box that has its checkpoint before another may take it.
    wait_for_box: float = 600.0
    #: Seconds that a run which hands its job back waits for the copy of its last save (`checkpoints.copy_to`).
    copy_seconds: float = 600.0
    #: Seconds without a step after which a trainer hangs; longer where its steps are (20 of them), or it compiles.
    hang_seconds: float = 600.0
    #: Python that has LeRobot; else conda's env `lerobot`, else the worker's own.
    trainer_python: str = ""
    #: Directories on this box whose datasets a job may name by `train.dataset.root`, colon-separated.
    dataset_roots: tuple[Path, ...] = ()
    #: Repositories of the Hub that a job may read, as patterns like lerobot/*; empty: any, their files are judged.
    allow_repos: tuple[str, ...] = ()
    #: Directories on this box whose weights a job may name; empty: any but the system's and other users'.
    weights_roots: tuple[Path, ...] = ()
    #: Directories on this box that a job may copy its checkpoints to; empty: any but the system's and other users'.
    copy_roots: tuple[Path, ...] = ()
    #: Whether compiled kernels travel between boxes (workers/compiled/sharing.py): off, own or listed. They are code.
    share_compiled: str = "off"
    #: Whether the user with the fewest cards comes first within a priority (queue/schedule.py); alike on all boxes.
    fair_share: bool = False
    #: A list of hashes of Python files that may run out of a repository (jobs/safety/allowed_code.py).
    allow_code: Path | None = None
    #: Whether a box that demands signatures takes over another box's checkpoints that have none (jobs/signing).
    unsigned_checkpoints: bool = False
    #: The Hugging Face Hub itself: the one address that this box's token is sent to.
    hf_endpoint: str = "https://huggingface.co"
    #: Where public files may come from as well, never shown the token: $HF_ENDPOINT where that is another address,
    #: hf-mirror.com on AutoDL, else nothing; `off` for none.
    hf_mirror: str = ""
    #: Roads to public files, best first: mirror, turbo, hub (straight to the Hub), modelscope; others are not taken.
    roads: tuple[str, ...] = ROADS
    #: ModelScope's address: same-named repositories are taken from it where their hashes are the Hub's.
    modelscope: str = "https://modelscope.cn"
    #: Whether pi0's gated tokenizer may come from ModelScope, which asks nobody to accept its terms.
    modelscope_tokenizer: bool = False
    #: Where torchvision's files of weights come from (resnet18-f37072fd.pth); each is checked by the hash in its name.
    #: `off` leaves them to the trainer.
    torch_weights: str = "https://download.pytorch.org/models"
    #: AutoDL's "academic acceleration": its exports of proxies are used towards the Hub, GitHub and WandB alone.
    network_turbo: Path = Path("/etc/network_turbo")
    #: Seconds without a byte after which a download is broken off and another way tried.
    stall_seconds: float = 120.0
    #: How long `pi0q up` and `pi0q prune` keep the records of ended jobs.
    keep_ended: Retention = field(default_factory=Retention)
    #: Services that are told what happens, as apprise's addresses, with a label before `=` or without: secrets.
    notify: tuple[str, ...] = field(default=(), repr=False)
    #: What they are told where a job does not say otherwise: kinds of jobs/notice_kinds.py; empty: USUAL there.
    notify_on: tuple[str, ...] = ()
    #: Seconds without any need for this box after which it switches itself off (workers/idle); None: it never does.
    idle_after: float | None = None
    #: How: `shutdown`, or the words of a command of the user's own.
    idle_do: tuple[str, ...] = (idle_policy.SHUTDOWN,)
    #: Seconds between the message and the end.
    idle_grace: float = 300.0
    #: What does not keep it on: words of idle_policy.ALLOWED.
    idle_allow: tuple[str, ...] = ()
    #: Where TensorBoard files of each job are written: AutoDL's panel shows /root/tf-logs; None: nowhere.
    tensorboard_dir: Path | None = None
    #: Simulated GPUs, always shown as such: [{"name": …, "total_gib": …, "used_gib": …}].
    fake_gpus: tuple[Mapping[str, Any], ...] | None = None
    #: Whether a box without a card fetches what waiting jobs read (workers/staging): auto (in AutoDL's no-GPU mode),
    #: on (whenever it shows no card; it then claims nothing) or off.
    staging: str = "auto"
    #: Free space that a claim leaves on the system disk.
    system_disk_reserve_mib: int = 2048
    #: Whether names were given by the user, for messages: setting -> "PI0Q_X" or the file.
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> Path:
        """One directory per job: `runs/<job id>/`."""
        return self.home / "runs"

    @property
    def timing(self) -> times.Timing:
        """Everything that follows from the lease."""
        return times.timing(self.lease_seconds, self.fence)

    @property
    def idle(self) -> idle_policy.IdlePolicy:
        """When this box switches itself off."""
        return idle_policy.IdlePolicy(after=self.idle_after, grace=self.idle_grace, allow=frozenset(self.idle_allow))

    def safe_url(self) -> str:
        """The server's address as it may be shown: without user and password, wherever they stand in it."""
        return server_address.shown(self.redis_url)


#: Settings that may be lists in the file: what stands between their parts in a variable.
_LISTS = {
    "dataset_roots": ":",
    "weights_roots": ":",
    "copy_roots": ":",
    "allow_repos": ",",
    "roads": ",",
    "notify": " ",
    "notify_on": ",",
    "idle_allow": ",",
}


def load(env: Mapping[str, str] | None = None, *, config: Path | None = None) -> Settings:
    """The settings of this process. Raises UsageError naming every setting that can't be read."""
    env = os.environ if env is None else env
    path = config if config is not None else config_path(env)
    texts, sources, faults = _from_file(path)
    for name in READERS:
        variable = f"PI0Q_{name.upper()}"
        if env.get(variable):
            texts[name], sources[name] = env[variable], variable
    values: dict[str, Any] = {}
    for name, text in texts.items():
        try:
            values[name] = READERS[name](text)
        except (ValueError, RuntimeError) as error:
            faults.append(f"  {sources[name]}: can't read {name}: {error}")
    if faults:
        raise UsageError("\n".join(["Invalid pi0q settings:", *faults]))
    if "home" not in values:
        values["home"] = default_home(env)
    if "redis_url" not in values and (url := _from_up(values["home"])):
        values["redis_url"], sources["redis_url"] = url, str(values["home"] / "up.json")
        if url.startswith("rediss:"):
            values["tls"] = values["home"] / "server" / "tls" / "owner"
    if "tls" not in values and str(values.get("redis_url", "")).startswith("rediss:"):
        values["tls"] = tls.default_directory(path)
    values.setdefault("hf_home", Path(env.get("HF_HOME") or values["home"] / "huggingface"))
    values.setdefault("dataset_roots", (values["home"] / "datasets",))
    values.setdefault("hf_mirror", _default_mirror(env, str(values.get("hf_endpoint", Settings.hf_endpoint))))
    values.setdefault("tensorboard_dir", _default_tensorboard())
    return Settings(**values, sources=sources)


def named_box(text: str) -> str:
    """Return the name of a box that a user chose. Raises UsageError for one that can be none."""
    try:
        return box_name(text)
    except ValueError as error:
        raise UsageError(f"--name {text!r} can't be the name of a box: {error}. Nothing was started.") from None


def make_home(settings: Settings) -> None:
    """Make the directory of this machine's state where there is none. Raises UsageError where that is not possible."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        source = settings.sources.get("home")
        raise UsageError(
            f"PI0Q_HOME={settings.home}{f' (from {source})' if source else ''} can't be used: {error.strerror}.\n"
            "Nothing was started.\n"
            "Fix: set PI0Q_HOME to a directory on the data disk that you may write, like ~/pi0q"
        ) from None


def config_path(env: Mapping[str, str]) -> Path:
    """`~/.config/pi0q/config.toml`, or wherever XDG_CONFIG_HOME says."""
    base = env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "~")).expanduser() / ".config"
    return Path(base) / "pi0q" / "config.toml"


def default_home(env: Mapping[str, str]) -> Path:
    """`/root/autodl-tmp/pi0q` on AutoDL, else the platform's user data directory."""
    if _on_autodl():
        return AUTODL_DATA / "pi0q"
    import platformdirs

    return Path(platformdirs.user_data_dir("pi0q"))


def _on_autodl() -> bool:
    # A Path raises where this user may not even look, as below another's home.
    return os.path.isdir(AUTODL_DATA)  # noqa: PTH112


def _default_tensorboard() -> Path | None:
    return AUTODL_TENSORBOARD if os.path.isdir(AUTODL_TENSORBOARD) else None  # noqa: PTH112


def _default_mirror(env: Mapping[str, str], hub: str) -> str:
    """Whatever HF_ENDPOINT names is taken for a mirror, so that no token goes there unless `hf_endpoint` says so."""
    with contextlib.suppress(ValueError):
        if (named := mirror_address(env.get("HF_ENDPOINT", ""))) != hub:
            return named
    return AUTODL_MIRROR if _on_autodl() else ""


def _from_up(home: Path) -> str | None:
    """Where `pi0q up` on this machine put its queue (ops/local/stack.py writes the file and removes it)."""
    try:
        return str(json.loads((home / "up.json").read_text(encoding="utf-8"))["redis_url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _from_file(path: Path) -> tuple[dict[str, str], dict[str, str], list[str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}, {}, []
    except (UnicodeDecodeError, OSError) as error:
        return {}, {}, [f"  {path}: {error}"]
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return {}, {}, [f"  {path}: {error}"]
    known = {f.name for f in fields(Settings)} & set(READERS)
    faults = [
        f"  {path}: unknown setting {name}; known are {', '.join(sorted(known))}" for name in raw if name not in known
    ]
    texts = {name: _text(name, value) for name, value in raw.items() if name in known}
    return texts, dict.fromkeys(texts, str(path)), faults


def _text(name: str, value: Any) -> str:
    """A value of the file as the same setting's variable would have it."""
    if isinstance(value, str):
        return value
    if name in _LISTS and isinstance(value, list):
        return _LISTS[name].join(map(str, value))
    return json.dumps(value, default=str)
