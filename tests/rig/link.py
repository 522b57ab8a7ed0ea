"""The network between a box and the queue's server: a TCP proxy that can be cut, refuse, hold and swallow."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from tests.rig.server import free_port

CHUNK = 1 << 16
#: Bytes that may wait in each direction before the sender is made to wait, as a socket's buffer would.
WAITING = 1 << 20
#: Closing with this set sends a RST.
RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Pair:
    """One connection through the link: the box's side, the server's, and what is on its way to each."""

    sides: tuple[socket.socket, socket.socket]
    waiting: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    #: Bytes of it vanished; a stream with a hole never flows again, its two ends just do not know.
    dead: bool = False
    #: Which sides have said that no more will come.
    ended: set[int] = field(default_factory=set)


class Link:
    """A line of its own to a server. `url` is the server's address through it.

    What happens to new and standing connections:

        cut()      standing ones get a RST; new ones are welcome
        refuse()   standing ones get a RST, new ones are refused, until accept() or heal()
        hold()     nothing arrives for now and nothing is lost: packets that are sent again until they get through;
                   heal() lets all of it arrive, however late
        swallow()  half-open: bytes vanish, both ends think that they are connected; heal() lets new connections
                   through, those that lost bytes stay dead and silent, as behind a NAT that forgot them
        heal()     all is well
        retarget() new connections go to another port; standing ones get a RST
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self.target = parts.port
        self.port, self._holder = free_port()
        host = f"127.0.0.1:{self.port}"
        self.url = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{host}".lstrip("@")))
        #: open, refusing, holding or swallowing.
        self.state = "open"
        #: Connections that were made since the start.
        self.made = 0
        self._pairs: set[Pair] = set()
        self._selector = selectors.DefaultSelector()
        self._lock = threading.RLock()
        self._listener: socket.socket | None = None
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._closed = False
        self._listen()
        self._thread = threading.Thread(target=self._run, name=f"link {self.port}", daemon=True)
        self._thread.start()

    # -- faults ---------------------------------------------------------------------------------------

    def cut(self) -> None:
        with self._lock:
            for pair in list(self._pairs):
                self._drop(pair)

    def refuse(self) -> None:
        with self._lock:
            self.state = "refusing"
            if self._listener is not None:
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = None
            self.cut()

    def accept(self) -> None:
        self.heal()

    def hold(self) -> None:
        self._become("holding")

    def swallow(self) -> None:
        self._become("swallowing")

    def heal(self) -> None:
        self._become("open")

    def retarget(self, port: int) -> None:
        with self._lock:
            self.target = port
            self.cut()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._wake.send(b".")
        self._thread.join()
        self.refuse()
        for each in (self._holder, self._woken, self._wake):
            each.close()
        self._selector.close()

    # -- the line -------------------------------------------------------------------------------------

    def _become(self, state: str) -> None:
        with self._lock:
            self.state = state
            if self._listener is None:
                self._listen()
            for pair in list(self._pairs):
                if pair.ended and state == "open" and pair.dead:
                    self._drop(pair)
                else:
                    self._look(pair)
        self._wake.send(b".")

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        listener.setblocking(False)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)

    def _run(self) -> None:
        while True:
            ready = self._selector.select()
            with self._lock:
                if self._closed:
                    return
                for key, events in ready:
                    # An earlier one of this batch may have closed it.
                    if key.fileobj is self._woken:
                        with contextlib.suppress(BlockingIOError):
                            self._woken.recv(CHUNK)
                    elif key.data is None:
                        # A listener; one that was closed meanwhile takes nobody in.
                        if key.fileobj is self._listener:
                            self._take_in()
                    else:
                        pair, index = key.data
                        if pair in self._pairs:
                            self._move(pair, index, events)

    def _take_in(self) -> None:
        assert self._listener is not None
        try:
            inner, _ = self._listener.accept()
        except OSError:
            return
        outer = socket.socket()
        outer.setblocking(False)
        outer.connect_ex(("127.0.0.1", self.target))
        inner.setblocking(False)
        for side in (inner, outer):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.made += 1
        pair = Pair(sides=(inner, outer), dead=self.state == "swallowing")
        self._pairs.add(pair)
        self._look(pair)

    def _look(self, pair: Pair) -> None:
        """Registers what is wanted of each side now."""
        lost = pair.dead or self.state == "swallowing"
        for index, side in enumerate(pair.sides):
            wanted = 0
            if self.state != "holding":
                if index not in pair.ended and (lost or len(pair.waiting[1 - index]) < WAITING):
                    wanted |= selectors.EVENT_READ
                if pair.waiting[index] and not lost:
                    wanted |= selectors.EVENT_WRITE
            registered = side in self._selector.get_map()
            if wanted and registered:
                self._selector.modify(side, wanted, (pair, index))
            elif wanted:
                self._selector.register(side, wanted, (pair, index))
            elif registered:
                self._selector.unregister(side)

    def _move(self, pair: Pair, index: int, events: int) -> None:
        if self.state == "holding":
            return
        try:
            if events & selectors.EVENT_READ:
                self._read(pair, index)
            if events & selectors.EVENT_WRITE and not pair.dead:
                self._push(pair, index)
        except BlockingIOError:
            pass
        except OSError:
            pair.ended.add(index)
            if not self._unseen(pair):
                self._drop(pair)
                return
        if pair.ended and not self._unseen(pair) and (pair.dead or not any(pair.waiting)):
            self._drop(pair, politely=not pair.dead)
            return
        self._look(pair)

    def _unseen(self, pair: Pair) -> bool:
        """Whether the far end must not learn that this one has closed: that packet is swallowed too."""
        return self.state == "swallowing" and len(pair.ended) < 2

    def _read(self, pair: Pair, index: int) -> None:
        data = pair.sides[index].recv(CHUNK)
        if self.state == "swallowing":
            pair.dead = True
        if not data:
            pair.ended.add(index)
        elif not pair.dead:
            pair.waiting[1 - index].extend(data)
            self._push(pair, 1 - index)

    def _push(self, pair: Pair, index: int) -> None:
        waiting = pair.waiting[index]
        with contextlib.suppress(BlockingIOError):
            sent = pair.sides[index].send(waiting)
            del waiting[:sent]

    def _drop(self, pair: Pair, *, politely: bool = False) -> None:
        self._pairs.discard(pair)
        for side in pair.sides:
            if side in self._selector.get_map():
                self._selector.unregister(side)
            with contextlib.suppress(OSError):
                if not politely:
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            side.close()
