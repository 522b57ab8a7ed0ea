"""What each role may do: a table of forbidden acts on a real server, and the scripts against the rules."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import redis

from pi0q.ops.local import server as servers
from pi0q.ops.server import live, passwords, scripts
from pi0q.ops.server.roles import RIGHTS, Role, prefix_fault, rules
from pi0q.ops.server.users import Access, User, hashed
from pi0q.queue.store import Store
from tests.conftest import JobDriver

LUA = Path(__file__).parents[3] / "queue" / "lua"
#: Acts of an admin alone.
OF_ADMINS = {"discard", "prune", "put_back", "forget_box", "drain"}
#: A box of the table; another is `box-b`.
BOX, JOB = "box-a", "0123456789ab"

pytestmark = pytest.mark.refused


class Users:
    """Users of a server with the rights that the test asks for."""

    def __init__(self, store: Store) -> None:
        self.store, self.made = store, list[redis.Redis]()
        scripts.load(store.client, list(scripts.texts()))

    def access(self) -> Access:
        return Access(prefix=self.store.prefix, memory_mib=64)

    def add(self, role: Role, name: str, box: str = "") -> redis.Redis:
        secret = passwords.new()
        user = User(name=name, role=role, password_hash=hashed(secret), box=box)
        live.set_user(self.store.client, self.access(), user)
        pool = dict(self.store.client.connection_pool.connection_kwargs, username=name, password=secret)
        self.made.append(redis.Redis(connection_pool=redis.ConnectionPool(**pool)))
        return self.made[-1]


@pytest.fixture
def users(store: Store) -> Iterator[Users]:
    users = Users(store)
    yield users
    for client in users.made:
        client.close()


FORBIDDEN_TO_ALL = (
    ["CONFIG", "GET", "*"],
    ["CONFIG", "SET", "appendonly", "no"],
    ["CONFIG", "REWRITE"],
    ["ACL", "SETUSER", "backdoor", "on", "nopass", "~*", "+@all"],
    ["ACL", "LIST"],
    ["FUNCTION", "LIST"],
    ["FLUSHALL"],
    ["FLUSHDB"],
    ["SHUTDOWN", "NOSAVE"],
    ["KEYS", "*"],
    ["SCAN", "0"],
    ["EVAL", "return 1", "0"],
    ["SCRIPT", "LOAD", "return 1"],
    ["SCRIPT", "FLUSH"],
    ["CLIENT", "LIST"],
    ["CLIENT", "KILL", "USER", "owner"],
    ["MONITOR"],
    ["REPLICAOF", "127.0.0.1", "1"],
    ["SWAPDB", "0", "1"],
    ["MODULE", "LIST"],
    ["SORT", "{p}live"],
    ["RENAME", "{p}live", "{p}other"],
    ["COPY", "{p}live", "{p}other"],
    ["DUMP", "{p}live"],
    ["GETSET", "{p}server", "x"],
    ["EXPIRE", "{p}job:" + JOB, "1"],
    ["DEL", "{p}job:" + JOB],
    ["UNLINK", "{p}live"],
    ["SETRANGE", "{p}tail:" + JOB, "500000000", "x"],
    ["SET", "{p}job:" + JOB, "x"],
    ["HSET", "{p}limits", "ada", "9 9"],
    ["LPUSH", "{p}box.box-b", "{{}}"],
    ["HSET", "{p}box:box-b", "status", "stopped"],
    ["GET", "another-installation:server"],
    ["HSET", "another-installation:server", "run", "x"],
    ["SUBSCRIBE", "another-installation:changes"],
)
FORBIDDEN_TO_SUBMITTERS = (
    ["HSET", "{p}promises:gpu", JOB, "1"],
    ["HSET", "{p}budgets", "ann@laptop", "x"],
    ["HSET", "{p}prices", "box-a", "x"],
    ["HSET", "{p}paces", "shape", "x"],
    ["ZADD", "{p}leases", "1", JOB],
    ["ZREM", "{p}boxes", "box-b"],
    ["SADD", "{p}owned:box-a", JOB],
    ["LPUSH", "{p}box.box-a", "{{}}"],
    ["APPEND", "{p}tail:" + JOB, "x"],
    ["HSET", "{p}unacked", "x", "x"],
    ["SADD", "{p}_kombu.binding.celeryev", "x"],
    ["PUBLISH", "{p}/0.celery.pidbox", "x"],
)
FORBIDDEN_TO_VIEWERS = (
    *FORBIDDEN_TO_SUBMITTERS,
    ["HSET", "{p}job:" + JOB, "state", "cancelled"],
    ["LPUSH", "{p}jobs", "x"],
    ["PUBLISH", "{p}changes", "x"],
    ["ZADD", "{p}live", "1", "x"],
)
FORBIDDEN_TO_WORKERS = (
    ["SADD", "{p}owned:box-b", JOB],
    ["HSET", "{p}refusals:box-b", JOB, "[]"],
    ["DEL", "{p}plans:box-b"],
)
FORBIDDEN = [
    *((role, act) for role in RIGHTS for act in FORBIDDEN_TO_ALL),
    *((Role.SUBMITTER, act) for act in FORBIDDEN_TO_SUBMITTERS),
    *((Role.VIEWER, act) for act in FORBIDDEN_TO_VIEWERS),
    *((Role.WORKER, act) for act in FORBIDDEN_TO_WORKERS),
    *((Role.ADMIN, act) for act in (["SHUTDOWN"], ["MODULE", "LIST"], ["REPLICAOF", "127.0.0.1", "1"])),
]


def test_each_role_is_refused_what_is_not_its_own(users: Users, store: Store) -> None:
    store.client.hset(f"{store.prefix}job:{JOB}", mapping={"state": "queued"})
    clients = {role: users.add(role, f"{role}-x", BOX if role is Role.WORKER else "") for role in Role}
    allowed = []
    for role, act in FORBIDDEN:
        words = [part for word in act for part in word.format(p=store.prefix).split("|")]
        try:
            answer = live.ask(clients[role], *words)
        except redis.exceptions.NoPermissionError:
            continue
        allowed.append((str(role), act, answer))
    assert allowed == []
    assert store.client.hgetall(f"{store.prefix}job:{JOB}") == {"state": "queued"}


def test_the_same_acts_are_the_admins_to_do(users: Users, store: Store) -> None:
    admin = users.add(Role.ADMIN, "boss")
    assert live.ask(admin, "EVAL", "return 7", "0") == 7
    assert live.ask(admin, "DEL", f"{store.prefix}nothing") == 0
    assert live.ask(admin, "ACL", "WHOAMI") == "boss"


def test_every_write_of_the_scripts_is_granted_to_boxes() -> None:
    words = rules(Role.WORKER, prefix="p:", user="u", box="*")
    grants = [word.strip("()").split(" ") for word in words if word.startswith("(")]
    reads = {word[1:] for word in words if word.startswith("+")}
    missing = set()
    for file in LUA.glob("*.lua"):
        if file.stem in OF_ADMINS:
            continue
        for command, family in re.findall(r"redis\.p?call\('(\w+)', P \.\. '([^']+)'", file.read_text()):
            name = f"p:{family}"
            if command.lower() not in reads and command != "PUBLISH":
                patterns = [
                    key[1:] for grant in grants if f"+{command.lower()}" in grant for key in grant if key[0] == "~"
                ]
                if not any(fnmatchcase(name, one) or name + "*" == one for one in patterns):
                    missing.add((file.stem, command, family))
    assert missing == set(), f"boxes may not do this: add it to ops/server/roles.py: {sorted(missing)}"


@pytest.mark.parametrize("prefix", ["", "a b:", "pi0q*:", "p[a]:", "x" * 65, "p:\n+@all"])
def test_a_prefix_that_would_be_a_pattern_is_refused(prefix: str) -> None:
    assert prefix_fault(prefix)


def test_a_submitters_and_a_boxes_acts_are_theirs(users: Users, store: Store, driver: JobDriver) -> None:
    submitter = JobDriver(Store(users.add(Role.SUBMITTER, "ada"), store.prefix))
    box = JobDriver(Store(users.add(Role.WORKER, "box-a", "box-a"), store.prefix))
    job = submitter.submit()
    epoch = box.run(job, "box-a", promises=[("box-a:gpu0", 0, 100)])
    box.report(job, epoch, log="step 1\n")
    assert submitter.store.cancel(job, text="enough") == "running"
    with pytest.raises(redis.exceptions.ResponseError, match="script"):
        JobDriver(box.store).claim(submitter.submit("another"), "box-b")


def test_a_server_starts_without_what_was_done_to_the_one_before(tmp_path: Path) -> None:
    from tests.rig import roles

    data, port = tmp_path / "server", servers.choose_port(0, default=0, option="--port")
    roles.init(data)
    first = servers.start(data, port=port, log=tmp_path / "log")
    with redis.Redis.from_url(first.url) as owner:
        live.ask(owner, "ACL", "SETUSER", "backdoor", "on", "nopass", "~*", "+@all")
        owner.config_rewrite()
    first.stop()
    again = servers.start(data, port=port, log=tmp_path / "log")
    try:
        with redis.Redis.from_url(again.url, decode_responses=True) as owner:
            assert "backdoor" not in owner.acl_users()
            assert owner.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert owner.config_get("timeout") == {"timeout": "600"}
            scripts = [file.stem for file in (data / "scripts").glob("*.lua")]
            assert scripts and all(owner.script_exists(*scripts))
        with redis.Redis(port=port) as stranger, pytest.raises(redis.exceptions.AuthenticationError):
            stranger.ping()
    finally:
        again.stop()


def test_a_user_that_is_removed_is_cut_off_at_once(users: Users, store: Store) -> None:
    box = users.add(Role.WORKER, "box-a", "box-a")
    with box.pubsub() as listening:  # type: ignore[no-untyped-call]
        listening.subscribe(f"{store.prefix}changes")
        assert listening.get_message(timeout=10)
        assert box.hget(f"{store.prefix}server", "run") is None
        assert live.remove_user(store.client, users.access(), "box-a") >= 2
        with pytest.raises(redis.exceptions.ConnectionError):
            while listening.get_message(timeout=10) is None:
                pass
    with pytest.raises(redis.exceptions.AuthenticationError):
        box.ping()


@pytest.mark.parametrize("name", ["", "redis-server", "valkey-server"])
def test_what_scripts_wrote_is_there_after_a_restart(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers read their file as the user `default`, and leave out what that may not do."""
    from tests.rig import roles

    if name and not (found := shutil.which(name)):
        pytest.skip(f"no {name} on PATH")
    if name:
        monkeypatch.setenv("PI0Q_REDIS_BIN", str(found))
    data, port = tmp_path / "server", servers.choose_port(0, default=0, option="--port")
    roles.init(data)
    first = servers.start(data, port=port, log=tmp_path / "log")
    with redis.Redis.from_url(first.url, decode_responses=True) as owner:
        job = JobDriver(Store(owner, "t01234567:")).submit()
    first.stop()
    again = servers.start(data, port=port, log=tmp_path / "log")
    try:
        with redis.Redis.from_url(again.url, decode_responses=True) as owner:
            assert Store(owner, "t01234567:").get(job).id == job
            (rule,) = [line for line in live.ask(owner, "ACL", "LIST") if line.startswith("user default ")]
            assert " off " in rule and "-@all" in rule and "+" not in rule and "~*" not in rule
        with redis.Redis(port=port) as stranger, pytest.raises(redis.exceptions.AuthenticationError):
            stranger.ping()
        assert "NOPERM" not in (tmp_path / "log").read_text()
    finally:
        again.stop()
