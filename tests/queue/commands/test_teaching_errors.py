"""Mistakes of the command line and of the address, each told with what to do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.workers.runner import messages
from tests.conftest import Command

FILE = "{}train: {{dataset: {{repo_id: a/b}}, policy: {{type: act}}}}\n"


def test_import_of_a_job_file_says_that_it_needs_none(call: Command, tmp_path: Path) -> None:
    (tmp_path / "act.yaml").write_text(FILE.format(""))
    said = call("import", "act.yaml")
    assert (said.returncode, said.stdout) == (2, "")
    assert "If it is a job file already, it needs no import.\nFix: pi0q submit act.yaml --dry-run" in said.stderr


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("foo: 1\n", "foo is not a key of a job file; the keys are name, priority, "),
        ("resources: {foo: 1}\n", "resources.foo is not a key of a job file; the keys are resources.gpus, "),
        ("env: {A: 1}\n", "env is not a key of a job file (jobs set no variables of the environment); the keys are "),
        ("priorty: low\n", "priorty is not a key of a job file; did you mean priority?"),
    ],
)
def test_an_unknown_key_is_told_with_the_keys_that_there_are(
    call: Command, tmp_path: Path, line: str, says: str
) -> None:
    (tmp_path / "job.yaml").write_text(FILE.format(line))
    assert says in call("submit", "--dry-run", "job.yaml").stderr


@pytest.fixture
def web_server() -> Iterator[int]:
    """A server that answers anything with an HTTP error; its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


@pytest.mark.parametrize("words", [("ls",), ("cancel", "0123456789ab")], ids=["light client", "redis-py"])
def test_a_web_server_in_the_place_of_the_queue_is_told_as_such(
    call: Command, web_server: int, words: tuple[str, ...]
) -> None:
    said = call(*words, PI0Q_REDIS_URL=f"redis://127.0.0.1:{web_server}/0")
    assert said.returncode == 4
    # Its port may hold these digits.
    text = said.stderr.replace(str(web_server), "PORT")
    assert "is a web server or an HTTP proxy, not a queue's server." in text and "400" not in text


def test_a_job_on_a_simulated_gpu_is_told_so() -> None:
    assert messages.simulated(("FAKE-0",)) == "its GPU is simulated" and messages.simulated(("GPU-1",)) == ""
    assert "`device: cpu`" in messages.SIMULATED_FIX
