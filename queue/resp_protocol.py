"""RESP2, the server's protocol: commands packed, replies read, errors named. Replies are untrusted and have limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, BinaryIO

from pi0q.queue.server_client import Word

#: Limits of one batch of replies: bytes of a single text, bytes and values in all, and arrays within arrays. The
#: largest honest batch is `Store.boxes` over 1,000 boxes, some 30 MB.
MOST_TEXT, MOST_BYTES, MOST_VALUES, DEEPEST = 32 << 20, 256 << 20, 4_000_000, 8
#: Bytes of the line that begins a reply; the text of an error is one.
LONGEST_LINE = 64 << 10


class RespError(Exception):
    """The server could not be asked, or refused a command."""

    #: The command may have taken effect all the same.
    midway = False
    #: The server's own code for a refusal: NOAUTH, READONLY, OOM; "" where it sent none.
    code = ""


class ConnectionLost(RespError):
    """No connection, or one that broke."""

    def __init__(self, text: str, *, midway: bool) -> None:
        super().__init__(text)
        self.midway = midway


class NoAnswer(ConnectionLost):
    """The server took longer than the socket's timeout."""


class CommandRefused(RespError):
    """The server answered with an error."""

    def __init__(self, line: str) -> None:
        code, _, text = line.partition(" ")
        super().__init__(text if code.isupper() else line)
        self.code = code if code.isupper() else ""


class ReplyReader:
    """What is left of the limits of one batch of replies."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.bytes, self.values = file, MOST_BYTES, MOST_VALUES

    def reply(self) -> Any:
        """Read one reply; a refusal is returned, not raised. Raises ValueError for what is no reply, or too large."""
        self._take_values(1)
        return self._read(self.file.readline(LONGEST_LINE), 0)

    def _read(self, line: bytes, depth: int) -> Any:
        if line[-2:] != b"\r\n":
            raise EOFError if len(line) < LONGEST_LINE else ValueError("a line is too long")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            return self._text(int(rest))
        self._take_bytes(len(line))
        if kind == b":":
            return int(rest)
        if kind == b"*":
            return self._array(int(rest), depth)
        text = rest.decode("utf-8", "replace")
        if kind == b"-":
            return CommandRefused(text)
        if kind != b"+":
            raise ValueError("an HTTP reply" if line.startswith(b"HTTP/") else "a reply of an unknown kind")
        return text

    def _text(self, size: int) -> str | None:
        if size < 0:
            return None
        if size > MOST_TEXT:
            raise ValueError("a text is too large")
        self._take_bytes(size)
        raw = self.file.read(size + 2)
        if len(raw) < size + 2:
            raise EOFError
        return raw[:-2].decode("utf-8", "replace")

    def _array(self, size: int, depth: int) -> list[Any] | None:
        if size < 0:
            return None
        if depth >= DEEPEST:
            raise ValueError("arrays lie too deep")
        self._take_values(size)
        # Most of what is read are texts in arrays: hundreds of thousands for `pi0q ls --all`.
        readline, text = self.file.readline, self._text
        return [
            text(int(line[1:-2]))
            if (line := readline(LONGEST_LINE))[:1] == b"$" and line[-2:] == b"\r\n"
            else self._read(line, depth + 1)
            for _ in range(size)
        ]

    def _take_bytes(self, size: int) -> None:
        self.bytes -= size
        if self.bytes < 0:
            raise ValueError("the replies are too large")

    def _take_values(self, count: int) -> None:
        self.values -= count
        if self.values < 0:
            raise ValueError("too many values")


# -- commands ---------------------------------------------------------------------------------------


def pack(*words: Word) -> bytes:
    """Return a command as the protocol has it."""
    return b"*%d\r\n" % len(words) + words_of(words)


def words_of(words: Sequence[Word]) -> bytes:
    """Return the words of a command without its head, so that words which come again are packed once."""
    # A half of a surrogate pair can come from a terminal; it must not end us.
    raw = (word if isinstance(word, bytes) else str(word).encode("utf-8", "replace") for word in words)
    return b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in raw)


#: `words_of` for words that come again and again: the names of a record's fields.
known_words = lru_cache(maxsize=8)(words_of)


# -- what replies mean -------------------------------------------------------------------------------


def good(replies: Any) -> list[Any]:
    """Return the replies. Raises the first refusal among them."""
    if isinstance(replies, CommandRefused):
        raise replies
    for reply in replies:
        if isinstance(reply, CommandRefused):
            raise reply
    return list(replies)


def converted(reply: Any, convert: Callable[[Any], Any] | None) -> Any:
    """Return what `convert` makes of a reply. Raises RespError for one that it can make nothing of."""
    if convert is None or reply is None:
        return reply
    try:
        return convert(reply)
    except (ValueError, TypeError, IndexError) as error:
        raise RespError(f"an answer of another form than asked for: {error}") from None


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """Return the hash of a flat list: HGETALL."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def scored(flat: Sequence[str]) -> list[tuple[str, float]]:
    """Return the members and scores of a flat list: ZRANGE … WITHSCORES."""
    return [(member, float(score)) for member, score in zip(flat[::2], flat[1::2], strict=True)]
