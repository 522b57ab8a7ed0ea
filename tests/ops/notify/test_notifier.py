"""The notifier on a real server, with services that are lists, and with a real receiver of HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.jobs.notice_kinds import KINDS, USUAL
from pi0q.jobs.notices import Message
from pi0q.jobs.outcome import Reason
from pi0q.jobs.transition import ended
from pi0q.ops.notify import targets
from pi0q.ops.notify.notifier import BETWEEN, FIRST_PAUSE, STATE_FILE, Choice, Notifier, Target
from pi0q.queue.idle_outlook import Outlook
from pi0q.queue.idle_policy import Phase
from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver, Start
from tests.rig.cluster import wait

SILENT = 60.0


class Service:
    """A service that takes messages, or does not."""

    def __init__(self) -> None:
        self.got: list[Message] = []
        self.away = False

    def __call__(self, message: Message) -> bool:
        if self.away:
            raise OSError("ntfy://secret-topic is away")
        self.got.append(message)
        return True

    @property
    def titles(self) -> list[str]:
        return [message.title for message in self.got]


@pytest.fixture
def phone() -> Service:
    return Service()


def notifier(store: Store, home: Path, usual: tuple[str, ...] = USUAL, **services: Service) -> Notifier:
    chosen = {label: Target(service) for label, service in services.items()}
    home.mkdir(exist_ok=True)
    return Notifier(store, Choice(usual=usual, targets=chosen, silent_seconds=SILENT), home)


def turn(one: Notifier, now: float) -> None:
    one.look()
    one.send(now)


def fail(driver: JobDriver, store: Store, name: str) -> None:
    job = driver.submit(name)
    epoch = driver.run(job)
    assert store.move(job, ended(store.get(job), epoch, Reason.CUDA_OUT_OF_MEMORY, "CUDA out of memory"))


def test_history_before_the_first_start_is_not_sent(
    phone: Service, driver: JobDriver, store: Store, tmp_path: Path
) -> None:
    fail(driver, store, "before")
    one = notifier(store, tmp_path, phone=phone)
    turn(one, 0.0)
    fail(driver, store, "after")
    turn(one, 100.0)
    assert phone.titles == ["after failed on box-a"] and "CUDA out of memory" in phone.got[0].body


def test_restart_neither_loses_nor_repeats_a_message(
    phone: Service, driver: JobDriver, store: Store, tmp_path: Path
) -> None:
    first = notifier(store, tmp_path, phone=phone)
    first.look()
    fail(driver, store, "one")
    turn(first, 0.0)
    fail(driver, store, "two")
    second = notifier(store, tmp_path, phone=phone)
    turn(second, 0.0)
    notifier(store, tmp_path, phone=phone).look()
    assert phone.titles == ["one failed on box-a", "two failed on box-a"]


def test_service_that_is_away_holds_up_no_other_and_gets_all_later(
    phone: Service, driver: JobDriver, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = Service()
    dead.away = True
    one = notifier(store, tmp_path, phone=phone, dead=dead)
    one.look()
    fail(driver, store, "one")
    turn(one, 0.0)
    one.send(1.0)
    assert phone.titles == ["one failed on box-a"] and dead.got == []
    assert "secret-topic" not in caplog.text and "dead" in caplog.text
    fail(driver, store, "two")
    dead.away = False
    turn(one, FIRST_PAUSE + 1)
    assert dead.titles == ["pi0q: 2 events"] and phone.titles[-1] == "two failed on box-a"
    assert one.pending.notices == []


def test_messages_to_one_service_keep_their_distance(
    phone: Service, driver: JobDriver, store: Store, tmp_path: Path
) -> None:
    one = notifier(store, tmp_path, phone=phone)
    one.look()
    for number in range(3):
        fail(driver, store, f"job_{number}")
        turn(one, float(number))
    assert len(phone.got) == 1
    one.send(BETWEEN + 1)
    assert phone.titles[1:] == ["pi0q: 2 events"]


def test_lost_box_and_empty_queue_are_told(phone: Service, driver: JobDriver, store: Store, tmp_path: Path) -> None:
    one = notifier(store, tmp_path, KINDS, phone=phone)
    for name in ("box-a", "leaves"):
        store.announce_box(name, name, {"status": "ready"})
    job = driver.submit("grab_box")
    epoch = driver.run(job)
    turn(one, 0.0)
    phone.got.clear()
    store.announce_box("leaves", "leaves", {"status": "stopped"})
    store.client.zadd(store.prefix + "boxes", {"box-a": store.now_ms() - 100_000})
    turn(one, 20.0)
    assert phone.titles == ["Box box-a is lost"] and "It trained grab_box" in phone.got[0].body
    store.announce_box("box-a", "box-a", {"status": "ready"})
    assert store.move(job, ended(store.get(job), epoch, Reason.FINISHED, "done"))
    turn(one, 40.0)
    lines = phone.got[-1].body.splitlines()
    assert {"Box box-a is back", "grab_box finished on box-a", "Nothing waits and nothing runs any more"} <= set(lines)


def test_job_that_chose_nothing_is_not_told_of(phone: Service, driver: JobDriver, store: Store, tmp_path: Path) -> None:
    one = notifier(store, tmp_path, phone=phone)
    one.look()
    job = driver.submit("quiet", spec={"notify": {"on": []}})
    epoch = driver.run(job)
    assert store.move(job, ended(store.get(job), epoch, Reason.CUDA_OUT_OF_MEMORY, "CUDA out of memory"))
    turn(one, 0.0)
    assert phone.got == []


# -- addresses ------------------------------------------------------------------------------------


def test_addresses_have_labels_of_their_own_or_their_schemes() -> None:
    found = targets.labelled(["phone=ntfy://a", "ntfy://b", "ntfy://c?x=1"])
    assert found == {"phone": "ntfy://a", "ntfy": "ntfy://b", "ntfy2": "ntfy://c?x=1"}


def test_wrong_address_is_told_by_its_label_alone() -> None:
    with pytest.raises(UsageError) as told:
        targets.senders(["lab=bogus://s3cret", "json://localhost/x"])
    assert "lab" in str(told.value) and "s3cret" not in str(told.value)


@pytest.mark.parametrize("url", ["feishu://T", "dingtalk://T0ken", "schan://T0ken", "ntfy://x", "autodl://T"])
def test_services_that_users_in_china_have_are_known(url: str) -> None:
    assert len(targets.senders([url])) == 1


class _Received(BaseHTTPRequestHandler):
    """Keeps what is posted; answers as AutoDL does."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append((self.headers.get("Authorization"), body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"code": "Success"}')

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), _Received)
    server.received = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_autodl_gets_title_and_content_with_the_token(receiver: HTTPServer) -> None:
    send = targets._autodl("autodl://t0ken", endpoint=f"http://127.0.0.1:{receiver.server_port}/send")
    assert send is not None and send(Message(title="x" * 100, body="y"))
    ((token, body),) = receiver.received  # type: ignore[attr-defined]
    assert token == "t0ken" and body == {"title": "x" * 64, "name": "pi0q", "content": "y"}
    gone = targets._autodl("autodl://t0ken", endpoint="http://127.0.0.1:1/send")
    assert gone is not None and not gone(Message(title="x", body="y"))


def test_a_box_that_switches_itself_off_is_told_twice_and_is_not_lost(
    phone: Service, store: Store, tmp_path: Path
) -> None:
    def says(outlook: Outlook, status: str = "ready") -> None:
        store.announce_box("box-a", "id", {"status": status, "idle": json.dumps(outlook.to_json())})

    says(Outlook(phase=Phase.COUNTING, seconds=1500))
    one = notifier(store, tmp_path, phone=phone)
    turn(one, 0.0)
    for seconds in (300, 290):
        says(Outlook(phase=Phase.LEAVING, seconds=seconds))
        turn(one, 100.0 * seconds)
    says(Outlook(phase=Phase.OFF), "stopped")
    turn(one, 40_000.0)
    turn(notifier(store, tmp_path, phone=phone), 50_000.0)
    assert phone.titles == ["Box box-a switches itself off in 5 min", "Box box-a has switched itself off"]
    says(Outlook(phase=Phase.NEEDED, why=["grab runs here"]))
    turn(one, 60_000.0)
    assert len(phone.got) == 2


def test_command_sends_what_happens_to_a_real_receiver(
    start: Start, call: Command, env: dict[str, str], receiver: HTTPServer, driver: JobDriver, store: Store
) -> None:
    address = f"lab=json://127.0.0.1:{receiver.server_port}/hook"
    assert call("notify", "--test", PI0Q_NOTIFY=address).stdout == "lab: sent\n"
    assert receiver.received.pop()[1]["title"] == "pi0q can reach you"  # type: ignore[attr-defined]
    running = start("notify", PI0Q_NOTIFY=address)
    running.until("Messages about")
    # From the first look on.
    wait((Path(env["PI0Q_HOME"]) / STATE_FILE).exists, "the first look")
    fail(driver, store, "grab_box")
    wait(lambda: receiver.received, "a message")  # type: ignore[attr-defined]
    assert receiver.received[0][1]["title"] == "grab_box failed on box-a"  # type: ignore[attr-defined]
    assert str(receiver.server_port) not in running.text


def test_command_without_services_and_with_a_wrong_kind_is_told(call: Command) -> None:
    assert "Fix: export PI0Q_NOTIFY=" in call("notify").stderr
    wrong = call("notify", PI0Q_NOTIFY="ntfy://x", PI0Q_NOTIFY_ON="exploded")
    assert wrong.returncode == 2 and "it must hold some of started, saved" in wrong.stderr
