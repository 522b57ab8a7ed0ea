"""The trainer's output: whole in a file, short for the queue, and nowhere a secret."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from pi0q.workers.runs import trainer_log as module
from pi0q.workers.runs.trainer_log import LINE_BYTES, REPORT_BYTES, Log, mirror_into

TOKEN = "hf_" + "aB3" * 12
KNOWN = "0123456789abcdef" * 2


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = Log(tmp_path / "trainer.log", {"WANDB_API_KEY": KNOWN, "MY_PASSWORD": "short", "PATH": "/usr/bin:/bin"})
    yield opened
    opened.close()


def written(log: Log, tmp_path: Path) -> str:
    log.close()
    return (tmp_path / "trainer.log").read_text()


def test_lines_come_whole_however_they_arrive(log: Log, tmp_path: Path) -> None:
    for chunk in (b"fir", b"st\nsec", b"ond\n", b"", b"third"):
        log.write(chunk)
    assert log.take() == "first\nsecond\n"
    assert written(log, tmp_path) == "first\nsecond\nthird\n"
    assert log.take() == "third\n"


def test_a_bar_shows_its_last_state_without_colours(log: Log) -> None:
    log.write("\r  1%|\r\x1b[32m 50%|█████\x1b[0m\r100%|██████████|\r\n".encode())
    assert log.take() == "100%|██████████|\n"


def test_a_bar_in_front_of_a_log_line_goes(log: Log) -> None:
    bar = "Training:   2%|▏         | 55/3000 [00:13<29:52,  1.64step/s]"
    log.write(f"{bar}INFO 2026-11-22 ot_train.py:641 step:55 loss:52.1\n{bar}\n".encode())
    assert log.take() == f"INFO 2026-11-22 ot_train.py:641 step:55 loss:52.1\n{bar}\n"


def test_a_character_cut_between_two_reads_is_whole(log: Log) -> None:
    text = "抓取盒子\n".encode()
    log.write(text[:4])
    log.write(text[4:])
    assert log.take() == "抓取盒子\n"


def test_bytes_that_are_no_text_do_no_harm(log: Log) -> None:
    log.write(b"\xff\xfe\x00\x07binary\n")
    assert log.take() == "��binary\n"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"token={TOKEN}", "token=***"),
        (f"key {KNOWN}.", "key ***."),
        ("wandb_v1_abcDEF012_x ok", "*** ok"),
        ("https://user:pa55word@host/x", "https://***host/x"),
        (f"https://{TOKEN}@huggingface.co", "https://***@huggingface.co"),
        ("https://host/x?y=a@b", "https://host/x?y=a@b"),
        ("MY_PASSWORD is short, PATH is /usr/bin:/bin", "MY_PASSWORD is short, PATH is /usr/bin:/bin"),
    ],
)
def test_a_secret_is_stars(log: Log, tmp_path: Path, said: str, shown: str) -> None:
    log.write(said.encode() + b"\n")
    log.say(said)
    assert log.hide(said) == shown
    assert log.take() == f"{shown}\npi0q: {shown}\n"
    assert written(log, tmp_path) == f"{shown}\npi0q: {shown}\n"


def test_a_secret_cut_between_two_reads_is_stars(log: Log) -> None:
    for byte in f"say {TOKEN} twice {KNOWN}\n".encode():
        log.write(bytes([byte]))
    assert log.take() == "say *** twice ***\n"


@pytest.mark.parametrize("before", range(LINE_BYTES - 50, LINE_BYTES + 1, 7))
def test_a_secret_at_the_cut_of_a_long_line_is_not_half_shown(log: Log, before: int) -> None:
    log.write(b"x" * before + b" " + TOKEN.encode() + b" " + KNOWN.encode() + b"\n")
    shown = log.take()
    assert "aB3a" not in shown and "0123" not in shown


@pytest.mark.parametrize("after", range(LINE_BYTES - 50, LINE_BYTES, 7))
def test_a_secret_at_the_cut_of_an_endless_line_is_not_half_shown(log: Log, after: int) -> None:
    log.write(b"y " + TOKEN.encode() + b" " + b"x " * (after // 2))
    log.write(b"\n")
    assert "aB3a" not in log.take()


def test_a_line_without_end_takes_no_memory(log: Log) -> None:
    for _ in range(200):
        log.write(b"x" * 65536)
    log.write(b" end\n")
    assert log.take().endswith("x end\n")
    log.write(b"next\n")
    assert log.take() == "next\n"


def test_a_flood_loses_its_head_in_the_report_and_says_so(log: Log) -> None:
    for number in range(1000):
        log.write(f"line {number} {'x' * 90}\n".encode())
    note, *lines = log.take().splitlines()
    assert note == f"… {1000 - len(lines)} lines are only in the log on the box …"
    assert lines[-1].startswith("line 999 ")
    assert len("\n".join(lines)) <= REPORT_BYTES
    assert log.take() == ""


def test_the_file_is_turned_over_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 10_000)
    log = Log(tmp_path / "trainer.log", {})
    for number in range(1000):
        log.write(f"line {number} {'x' * 90}\n".encode())
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["trainer.log", "trainer.log.1", "trainer.log.2"]
    assert sum((tmp_path / name).stat().st_size for name in files) <= 30_000
    assert "line 999 " in (tmp_path / "trainer.log").read_text()


def test_an_earlier_attempts_log_is_kept(log: Log, tmp_path: Path) -> None:
    log.say("attempt 1")
    log.close()
    again = Log(tmp_path / "trainer.log", {})
    again.say("attempt 2")
    assert written(again, tmp_path) == "pi0q: attempt 1\npi0q: attempt 2\n"


def test_of_several_that_speak_one_rotates_the_file(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once would push the fresh file on, and the oldest out."""
    both, met = threading.Barrier(2), list[int]()

    def roll(self: RotatingFileHandler) -> None:
        try:
            met.append(both.wait(0.5))
        except threading.BrokenBarrierError:
            return

    monkeypatch.setattr(RotatingFileHandler, "shouldRollover", lambda *_: True)
    monkeypatch.setattr(RotatingFileHandler, "doRollover", roll)
    speakers = [threading.Thread(target=log.say, args=("x",)) for _ in range(2)]
    for speaker in speakers:
        speaker.start()
    for speaker in speakers:
        speaker.join()
    assert met == []


def test_mirror_writes_info_and_warnings_of_pi0q_into_the_log_without_secrets(log: Log) -> None:
    logger = logging.getLogger("pi0q.workers.anything")
    with mirror_into(log):
        logger.info("checkpoint %d verified", 20)
        logger.warning("the push with %s failed", TOKEN)
        logger.debug("not for a user")
        logging.getLogger("urllib3").warning("not of pi0q")
    logger.warning("after the run")
    assert log.take() == "pi0q: checkpoint 20 verified\npi0q: WARNING: the push with *** failed\n"
    assert log.recent() == []


def test_mirror_restores_the_logger(log: Log) -> None:
    logger = logging.getLogger("pi0q")
    before = (logger.level, list(logger.handlers))
    with pytest.raises(KeyError), mirror_into(log):
        raise KeyError
    assert (logger.level, list(logger.handlers)) == before
