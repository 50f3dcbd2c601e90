"""A plain HTTP server in; a poor network in front of it out: it delays, stalls, breaks off, refuses and loses answers.

What it does to which request is drawn from a seed. An answer that is cut tells the length of the whole; one that is lost has
been done by the server behind all the same.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

KINDS = (
    *("delay", "stall", "stall in body", "cut body", "500", "503 SlowDown", "429", "403", "drop before", "drop in headers"),
    *("lost answer", "reset", "reset in body", "slow", "refuse"),
)
"""All it can do to a request; "refuse": to every connection for a while, before the request is read."""
PASSING = tuple(kind for kind in KINDS if kind != "403")
"""After which whoever asks again gets the answer."""
_SAID = {
    "500": (500, "Internal Server Error", "InternalError", "We encountered an internal error. Please try again."),
    "503 SlowDown": (503, "Slow Down", "SlowDown", "Please reduce your request rate."),
    "429": (429, "Too Many Requests", "TooManyRequests", "Please slow down."),
    "403": (403, "Forbidden", "AccessDenied", "Access Denied"),
}
_OF_ONE_CONNECTION = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "te", "trailer", "expect"})
_REFUSED_S = 0.2
_SLOW_BYTES = 60
"""So many bytes of a slow answer come one at a time, the rest at once."""
_TURN_S = 0.02


@dataclass
class Schedule:
    """What is done to which request.

    Attributes:
        kinds: what may be done; each in turn before any of them again.
        share: the part of the requests to which something is done.
        most_in_a_row: the same request (method, path and range) is harmed so many times, then it is left alone.
        most: harms in all; None: no end.
        wanted: only requests of which this says True of (method, path).
        stall_s: how long nothing comes.
    """

    seed: int = 0
    kinds: Sequence[str] = PASSING
    share: float = 0.3
    most_in_a_row: int = 1
    most: int | None = None
    wanted: Callable[[str, str], bool] = lambda method, path: True
    stall_s: float = 1.5
    injected: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._turn: list[str] = []
        self._harmed: Counter[tuple[str, str, str]] = Counter()
        self._lock = threading.Lock()

    def draw(self, method: str, path: str, span: str) -> str | None:
        """What to do to this request; None: nothing."""
        with self._lock:
            if not self.kinds or not self.wanted(method, path) or self._rng.random() >= self.share:
                return None
            if self.most is not None and self.injected.total() >= self.most:
                return None
            if self._harmed[method, path, span] >= self.most_in_a_row:
                return None
            if not self._turn:
                self._turn = self._rng.sample(list(self.kinds), len(self.kinds))
            kind = self._turn.pop()
            self._harmed[method, path, span] += 1
            self.injected[kind] += 1
            return kind

    def place(self, num_bytes: int) -> int:
        """A place inside of so many bytes at which something breaks off; never behind the last."""
        with self._lock:
            return self._rng.randrange(num_bytes) if num_bytes else 0


class BadProxy:
    """The proxy, at `url`; `schedule` may be changed at any time, and `log` has (method, path, range, what was done)."""

    def __init__(self, behind: str, schedule: Schedule | None = None) -> None:
        parts = urlsplit(behind)
        self.behind = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._schedule = schedule or Schedule(kinds=())
        self.log: list[tuple[str, str, str, str | None]] = []
        self.ended = threading.Event()
        self._closed_until, self._is_open = 0.0, threading.Event()
        self._listener = self._listening(0)
        self._port = int(self._listener.getsockname()[1])
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True, name="bad-proxy")
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address, without a slash behind."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def schedule(self) -> Schedule:
        """What happens to the next requests."""
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: Schedule) -> None:
        """Change it; connections that were refused by the one before are taken again at once."""
        self._schedule, self._closed_until = schedule, 0.0
        assert self._is_open.wait(10)

    def refuse(self, seconds: float) -> None:
        """Take no connections for so long."""
        self._is_open.clear()
        self._closed_until = time.monotonic() + seconds

    def close(self) -> None:
        """End it, and every connection."""
        self.ended.set()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=10)

    @staticmethod
    def _listening(port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        listener.settimeout(_TURN_S)
        return listener

    def _accept(self) -> None:
        while not self.ended.is_set():
            if time.monotonic() < self._closed_until:
                self._listener.close()
                while time.monotonic() < self._closed_until and not self.ended.wait(_TURN_S):
                    pass
                self._listener = self._listening(self._port)
            self._is_open.set()
            with contextlib.suppress(TimeoutError):
                connection, address = self._listener.accept()
                connection.settimeout(60)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection, address), daemon=True).start()
        self._listener.close()

    def _serve(self, connection: socket.socket, address: tuple[str, int]) -> None:
        self._connections.add(connection)
        with contextlib.suppress(OSError, ValueError):  # clients hang up in the middle
            _Relay(connection, address, self)  # type: ignore[arg-type]
        self._connections.discard(connection)
        connection.close()


class _Break(Exception):  # noqa: N818 (an end, told by an exception)
    """The connection ends here."""


class _Relay(BaseHTTPRequestHandler):
    """One connection: hands on requests and answers."""

    protocol_version = "HTTP/1.1"
    server: BadProxy  # type: ignore[assignment]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_one_request(self) -> None:
        """Read a request, do what is to be done to it, and answer."""
        self.raw_requestline = self.rfile.readline(1 << 16)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self._body()
        span = self.headers.get("Range", "")
        kind = self.server.schedule.draw(self.command, self.path, span)
        self.server.log.append((self.command, self.path, span, kind))
        try:
            self._before(kind)
            self._answer(kind, *self._asked(body))
        except _Break:
            self.close_connection = True

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            found = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _before(self, kind: str | None) -> None:
        """What is done before the server behind hears of the request."""
        match kind:
            case "delay":
                time.sleep(0.1)
            case "stall":
                self.server.ended.wait(self.server.schedule.stall_s)
                raise _Break
            case "drop before":
                raise _Break
            case "reset":
                self._reset()
            case "refuse":
                self.server.refuse(_REFUSED_S)
                raise _Break
            case "500" | "503 SlowDown" | "429" | "403":
                self._refuse(kind)

    def _refuse(self, kind: str) -> None:
        status, reason, code, text = _SAID[kind]
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
        lines = [f"HTTP/1.1 {status} {reason}", "Content-Type: application/xml", f"Content-Length: {len(body)}"]
        lines += ["Retry-After: 0"] if status in (429, 503) else []
        self._send("\r\n".join(lines).encode() + b"\r\n\r\n" + (body if self.command != "HEAD" else b""))
        self.close_connection = True  # what a server does that is overloaded
        raise _Break

    def _asked(self, body: bytes) -> tuple[bytes, bytes]:
        """What the server behind answers: its head, with the length of the body, and the body."""
        behind = http.client.HTTPConnection(*self.server.behind, timeout=60)
        try:
            behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _OF_ONE_CONNECTION:
                    behind.putheader(name, value)
            if body or "Content-Length" in self.headers:
                behind.putheader("Content-Length", str(len(body)))
            behind.endheaders(body or None)
            answer = behind.getresponse()
            data = answer.read()
            lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
            lines += [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() not in _OF_ONE_CONNECTION]
            told = answer.getheader("Content-Length")
            if answer.status not in (204, 304):
                lines.append(f"Content-Length: {told if self.command == 'HEAD' and told is not None else len(data)}")
            return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n", data
        finally:
            behind.close()

    def _answer(self, kind: str | None, head: bytes, body: bytes) -> None:
        """Send an answer as well as it is to be sent."""
        place = self.server.schedule.place
        match kind:
            case "lost answer":
                raise _Break
            case "drop in headers":
                self._send(head[: place(len(head) - 4)])
                raise _Break
            case "cut body" | "reset in body" | "stall in body":
                # An answer without a body breaks off in its head.
                self._send(head + body[: place(len(body))] if body else head[:-6])
                if kind == "reset in body":
                    self._reset()
                if kind == "stall in body":
                    self.server.ended.wait(self.server.schedule.stall_s)
                raise _Break
            case "slow":
                whole = head + body
                for at in range(min(_SLOW_BYTES, len(whole))):
                    self._send(whole[at : at + 1])
                    time.sleep(0.002)
                self._send(whole[_SLOW_BYTES:])
            case _:
                self._send(head + body)

    def _send(self, data: bytes) -> None:
        try:
            self.connection.sendall(data)
        except OSError:
            raise _Break from None

    def _reset(self) -> None:
        """End the connection by a reset, not in order."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # (what refers to the socket must be closed, too, before the system hears of it)
        self.rfile.close()
        self.connection.close()
        raise _Break


@contextlib.contextmanager
def behind_a_bad_network(address: str, schedule: Schedule | None = None) -> Iterator[BadProxy]:
    """A proxy in front of the server at `address` until the end of the block; without a schedule it hands all on unharmed."""
    proxy = BadProxy(address, schedule)
    try:
        yield proxy
    finally:
        proxy.close()
