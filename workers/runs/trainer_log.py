"""Log of a run: the trainer's output, whole and rotated in a file, its last lines for the record. No secret passes."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path

from pi0q.workers.runs.redaction import known_secrets

#: Bytes of one log file, and how many are kept besides the newest.
FILE_BYTES, OLD_FILES = 32 * 1024 * 1024, 2
#: Bytes of one line that are kept.
LINE_BYTES = 8192
#: Bytes that go into one report; a flood loses its middle there, not in the file.
REPORT_BYTES = 8192

#: Lines that are kept at hand to see what a trainer died of, and characters of each.
RECENT, RECENT_CHARACTERS = 1000, 1000

#: Characters of the end of a rank's log that the queue keeps; the job's own log is that of rank 0.
RANK_TAIL = 4096

#: Escape sequences (CSI, and OSC up to its end), other control characters of 7 and 8 bits, marks of bidirectional text.
ANSI = re.compile(
    r"(?:\x1b\[|\x9b)[0-9;?]*[ -/]*[@-~]|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
#: A bar that the trainer's own log line came behind of: tqdm ends none of its lines.
BAR = re.compile(r"^[^|\[]*\|[^|]*\| \d+/\d+ \[[^\]]*\](?=\S)")
CUT_WORD = re.compile(rb"^\S{0,512}")
SECRETS = re.compile(r"hf_[A-Za-z0-9]{20,}|wandb_v1_\w+|(?<=://)[^/@\s]+@(?=\S)")


def escaped_secrets(env: Mapping[str, str]) -> list[str]:
    """Return this box's secrets as parts of a regular expression."""
    return [re.escape(value) for value in known_secrets(env, user_home=Path.home())]


def secrets_pattern(known: Sequence[str]) -> re.Pattern[str]:
    """Return what hides secrets. `re` keeps it compiled: a runner that waits for a claim asks for it beforehand."""
    return re.compile("|".join([*known, SECRETS.pattern]))


class Log:
    """Takes the trainer's bytes as they come. Thread-safe but for `write`."""

    def __init__(self, path: Path, env: Mapping[str, str]) -> None:
        self._file = RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=OLD_FILES, encoding="utf-8")
        self._known = escaped_secrets(env)
        self._secrets = secrets_pattern(self._known)
        self._partial = b""
        self._pending: list[str] = []
        self._pending_bytes = 0
        self._left_out = 0
        self._lock = threading.Lock()
        #: The trainer's last lines, and how many it said in all.
        self._recent: deque[str] = deque(maxlen=RECENT)
        self.said = 0
        #: Of a trainer on several GPUs: the logs of its other ranks, files beside this one.
        self.ranks = RankLogs(path, env)

    def write(self, chunk: bytes) -> list[str]:
        """Add output; return the lines that it completed, without escapes and secrets."""
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        if len(self._partial) > LINE_BYTES:
            # A bar that redraws itself, or a line without end: its newest part is the one that counts,
            # less the word at the cut, which may be half a secret.
            self._partial = CUT_WORD.sub(b"", self._partial[-LINE_BYTES:])
        cleaned = [clean(line, self._secrets) for line in lines]
        self._add(cleaned)
        self._recent.extend(line[:RECENT_CHARACTERS] for line in cleaned)
        self.said += len(cleaned)
        return cleaned

    def say(self, text: str) -> None:
        """Add a line of pi0q's own."""
        self._add([f"pi0q: {self.hide(text)}"])

    def hide(self, text: str) -> str:
        """Return the text with its secrets hidden."""
        return self._secrets.sub("***", text)

    def close(self) -> None:
        """Write what has no line end yet, and close the file."""
        if self._partial:
            self.write(b"\n")
        # What a full disk did not take is tried once more here; the run's last words must not be lost with it.
        with contextlib.suppress(OSError):
            self._file.close()

    def recent(self, since: int = 0) -> list[str]:
        """Return the trainer's last lines, with one that has no end yet; `since`: only those after so many lines."""
        lines = [*self._recent, clean(self._partial, self._secrets)] if self._partial else [*self._recent]
        return lines[max(0, since - self.said + len(self._recent)) :] if since else lines

    def take(self) -> str:
        """Return what came since the last call, cut to what one report may carry."""
        with self._lock:
            text, self._pending, self._pending_bytes = "".join(self._pending), [], 0
            if self._left_out:
                text = f"… {self._left_out} lines are only in the log on the box …\n{text}"
            self._left_out = 0
        return text

    def _add(self, lines: Iterable[str]) -> None:
        for line in lines:
            # `handle`, not `emit`: of the threads that speak here only one at a time may rotate the file.
            self._file.handle(logging.LogRecord("trainer", logging.INFO, "", 0, line, None, None))
            with self._lock:
                self._pending.append(line + "\n")
                self._pending_bytes += len(line.encode()) + 1
                while self._pending_bytes > REPORT_BYTES:
                    self._pending_bytes -= len(self._pending.pop(0).encode())
                    self._left_out += 1


class RankLogs:
    """Logs of the ranks of one trainer but the first, whose log is the job's."""

    def __init__(self, path: Path, env: Mapping[str, str]) -> None:
        """`path`: of the job's log."""
        self._path, self._env = path, env
        self.logs: dict[int, Log] = {}
        #: What the server has, lines in all.
        self._sent = 0

    def begin(self, count: int) -> None:
        """Begin those of a trainer of so many ranks, with those of an earlier one closed."""
        self.close()
        names = {rank: self._path.with_name(f"{self._path.stem}-rank{rank}.log") for rank in range(1, count)}
        self.logs, self._sent = {rank: Log(name, self._env) for rank, name in names.items()}, 0

    def take(self) -> dict[int, str]:
        """Return the end of each if there is something new since the last call; nothing otherwise."""
        logs, tails = dict(self.logs), dict[int, str]()
        said = sum(log.said for log in logs.values())
        # The thread that reads the trainer may add a line meanwhile: then the next call takes it.
        with contextlib.suppress(RuntimeError):
            if said != self._sent:
                tails = {rank: "".join(f"{line}\n" for line in log.recent())[-RANK_TAIL:] for rank, log in logs.items()}
                self._sent = said
        return tails

    def close(self) -> None:
        for log in self.logs.values():
            log.close()


class _Mirror(logging.Handler):
    """Writes log records as pi0q's own lines into a run's log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            warning = "WARNING: " if record.levelno >= logging.WARNING else ""
            self._log.say(f"{warning}{record.getMessage()}")
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def mirror_into(log: Log) -> Iterator[None]:
    """Write INFO and above of pi0q's loggers into this run's log, for as long as the context lasts."""
    logger, mirror = logging.getLogger("pi0q"), _Mirror(log)
    level = logger.level
    logger.addHandler(mirror)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(mirror)


def clean(line: bytes, secrets: re.Pattern[str] = SECRETS) -> str:
    """Return one line as a person should see it: the last state of a bar alone, no escapes, no secrets."""
    text = line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
    # Cut last: half a secret would not be known for one.
    return secrets.sub("***", BAR.sub("", ANSI.sub("", text)))[:LINE_BYTES]
