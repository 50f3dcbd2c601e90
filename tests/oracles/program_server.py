"""A process that imports the whole program, then forks for every command it is asked for (`program.py` asks).

Arguments: the number of a socket, and `sys.path` as JSON.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import threading
import weakref
from pathlib import Path
from typing import Any


def import_everything() -> None:
    """All modules of the program, and what they import only when it is needed."""
    import beholder

    for found in pkgutil.walk_packages(beholder.__path__, "beholder."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    for name in (
        "aiohttp", "braceexpand", "duckdb", "fastapi", "fsspec", "huggingface_hub", "jinja2", "matplotlib.figure", "moto",
        "numba", "numpy.testing", "pandas", "PIL.Image", "pyarrow.compute", "pyarrow.csv", "pyarrow.dataset", "rich.console",
        "rich.table", "s3fs", "safetensors.torch", "scipy.stats", "torch", "uvicorn",
    ):  # fmt: skip
        importlib.import_module(name)
    import numba
    import typer.main

    numba.njit(lambda x: x + 1)(1)  # numba reads the rest of itself when it makes its first function
    typer.main.get_command = functools.cache(typer.main.get_command)
    program: Any = typer.main.get_command(importlib.import_module("beholder.cli.app").app)
    assert all(program.commands.values())  # each is made when it is asked for
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False  # torch takes its operators down one by one at the end


def serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for every request, until nobody asks; returns in each fork, with what was asked and its three streams."""
    while True:
        message, streams, _, _ = socket.recv_fds(connection, 1 << 19, 3)
        if not message:
            os._exit(0)
        read, write = os.pipe()
        middle = os.fork()
        if middle == 0:
            # The one between ends at once, so that the command becomes a child of the test's process.
            command = os.fork()
            if command == 0:
                os.close(read)
                os.close(write)
                connection.close()
                return json.loads(message), streams
            os.write(write, str(command).encode())
            os._exit(0)
        os.waitpid(middle, 0)
        connection.send(os.read(read, 64))
        for handle in (read, write, *streams):
            os.close(handle)


def become(asked: dict[str, Any], streams: list[int]) -> None:
    """Give this process what was asked for, as if it had been started so."""
    for number, handle in enumerate(streams):
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115
    for name, number in (("stdout", 1), ("stderr", 2)):
        file = io.TextIOWrapper(
            open(number, "wb", closefd=False),  # noqa: SIM115
            encoding="utf-8",
            errors="strict" if number == 1 else "backslashreplace",
            line_buffering=number == 2 or os.isatty(number),
        )
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    exec(asked["before"], {})


def run(args: list[str]) -> None:
    """What `python ARGS` does."""
    how, *words = args
    if how == "-m":
        module, *rest = words
        sys.argv = [module, *rest]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    elif how == "-c":
        code, *rest = words
        sys.argv = ["-c", *rest]
        sys.path.insert(0, "")
        names = sys.modules["__main__"].__dict__
        exec(compile(code, "<string>", "exec"), names)
    else:
        sys.argv = args
        sys.path.insert(0, str(Path(how).parent))
        runpy.run_path(how, run_name="__main__")


def end(error: BaseException | None) -> None:
    """End this process as the interpreter does, without its taking apart of everything that was imported (1.7 s)."""
    status = 0
    if isinstance(error, SystemExit):
        if isinstance(error.code, int):
            status = error.code
        elif error.code is not None:
            print(error.code, file=sys.stderr)
            status = 1
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as failure:  # ValueError: it was closed
        if isinstance(failure, OSError):
            status = 120
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    connection_to_tests = socket.socket(fileno=int(sys.argv[1]))
    sys.path[:] = json.loads(sys.argv[2])
    import_everything()
    gc.freeze()  # no collection in a fork copies the pages of all that
    asked_for, its_streams = serve(connection_to_tests)
    become(asked_for, its_streams)
    raised: BaseException | None = None
    try:
        run(asked_for["args"])
    except BaseException as error:
        raised = error
    end(raised)
