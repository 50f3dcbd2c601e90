"""The program's commands as processes of their own that cost no time to start.

`python -m beholder` imports for seconds before it does anything. Here a first process imports it all, once in a session of
tests, and every command is a fork of that: a child of the test's own process, with arguments, folder, environment and streams
of its own, which ends as any Python program does. A test that is about the start itself (imports, streams that are closed,
limits of memory, the largest memory) starts a plain interpreter instead.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

_SERVER = Path(__file__).with_name("program_server.py")
_PR_SET_CHILD_SUBREAPER = 36
_MOST_BYTES = 1 << 18
"""Of the words and the environment of a command."""

Stream = int | IO[Any] | None


@functools.cache
def _server() -> socket.socket:
    """The connection to the process that forks; one for each process of tests, and it ends with that."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what it forks becomes a child of this process
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        line = [sys.executable, str(_SERVER), str(theirs.fileno()), json.dumps(sys.path)]
        subprocess.Popen(line, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _MOST_BYTES)
    return ours


class Forked(subprocess.Popen[str]):
    """A running Python program, as `subprocess.Popen` has it.

    `args` are what follows `python`: `["-m", "beholder", ...]`, `["-c", program, ...]` or a script's path and its words. Of
    Popen's options cwd, env, the three streams and text modes work; `before` is code that is run first, for `preexec_fn`.

    Attributes:
        most_memory: the largest memory that it had, bytes, once it has ended; what was imported counts.
    """

    most_memory = 0

    def __init__(self, args: list[str | os.PathLike[str]], *, before: str = "", **options: Any) -> None:
        self._before = before
        super().__init__(args, **options)

    def _execute_child(
        self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any, *rest: Any
    ) -> None:
        # Every other step of Popen (pipes before, waiting and reading after) is the library's own.
        assert not preexec_fn
        assert not pass_fds
        read_in, write_in, read_out, write_out, read_err, write_err = rest[3:9]
        asked = {
            "args": [os.fspath(word) for word in args],
            "cwd": str(Path(cwd or os.curdir).absolute()),
            "before": self._before,
            "env": dict(os.environ if env is None else env),
        }
        chosen = [own if given == -1 else given for given, own in ((read_in, 0), (write_out, 1), (write_err, 2))]
        message = json.dumps(asked).encode()
        assert len(message) < _MOST_BYTES
        with Path(os.devnull).open("rb") as nothing:
            if read_in == -1:  # never the input of whoever runs the tests
                chosen[0] = nothing.fileno()
            socket.send_fds(_server(), [message], chosen)
        self.pid = int(_server().recv(64))
        self._child_created = True
        for theirs, ours in ((read_in, write_in), (write_out, read_out), (write_err, read_err)):
            if theirs != -1 and (ours != -1 or theirs == getattr(self, "_devnull", None)):
                os.close(theirs)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        try:
            process_id, status, usage = os.wait4(self.pid, wait_flags)
        except ChildProcessError:  # somebody else has waited for it
            return self.pid, 0
        if process_id == self.pid:
            self.most_memory = usage.ru_maxrss * 1024
        return process_id, status


class Done(subprocess.CompletedProcess[str]):
    """What a program did.

    Attributes:
        most_memory: as of `Forked`.
    """

    most_memory = 0


def start(*args: str | os.PathLike[str], **options: Any) -> Forked:
    """A command of the program that runs: `start("score", source, ...)`; its streams are text unless told otherwise."""
    return Forked(["-m", "beholder", *args], **{"text": True, **options})


def python(*args: str | os.PathLike[str], check: bool = False, timeout: float = 280, **options: Any) -> Done:
    """A Python program, run to its end, its streams caught: `python("-c", program)`, `python(script, ...)`."""
    given = options.pop("input", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    if given is not None:
        pipes["stdin"] = subprocess.PIPE
    with Forked(list(args), **{**pipes, **options}) as running:
        try:
            out, err = running.communicate(given, timeout=timeout)
        except BaseException:
            running.kill()
            raise
    done = Done(running.args, running.returncode, out, err)
    done.most_memory = running.most_memory
    if check:
        done.check_returncode()
    return done


def beholder(*args: str | os.PathLike[str], **options: Any) -> Done:
    """A command of the program, run to its end, its streams caught: `beholder("score", source, "-o", out)`."""
    return python("-m", "beholder", *args, **options)
