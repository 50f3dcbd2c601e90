"""The program: runs the command line. A failure that a user can mend ends in one line, never in a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType, ModuleType

_INTERRUPTED = "interrupted; run the same command again to continue"


class _NoPandas:
    """Among the finders of modules, says that there is no pandas.

    pyarrow imports it (0.3 s, 40 MB) when it makes its first array, to see whether it was given a pandas object. No command
    has any; in Python, where a caller may, nothing is hidden. Whoever only asks whether there is such a module, as torch's
    compiler does, gets no exception, which `importlib.util.find_spec` would hand on.
    Nor is it hidden from libraries whose towers are run, which ask for it.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """As of `importlib.abc.MetaPathFinder`."""
        is_asked_for = any(library in sys.modules for library in ("timm", "open_clip", "transformers"))
        if name == "pandas" and not is_asked_for and sys._getframe(2).f_code.co_name != "find_spec":
            raise ModuleNotFoundError("pandas is not used by the command line", name=name)


def main() -> None:
    """Run the command line.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 some inputs rejected, 130 interrupted, 143 ended by SIGTERM, 129 by SIGHUP.
    """
    from beholder import streams
    from beholder.errors import BeholderError, os_error_text

    streams.set_up()
    received = _end_orderly()
    sys.meta_path.insert(0, _NoPandas)
    try:
        from beholder.cli.app import app

        app()
    except SystemExit as stop:  # Typer turns Ctrl-C into status 130 without a word
        if stop.code == 130:
            _fail(_INTERRUPTED, 128 + (received or [signal.SIGINT])[0])
        failure = streams.take_output_failure()
        if failure is not None:
            _fail(f"what was to be printed could not be written: {failure.strerror}", int(stop.code or 1))
        raise
    except BaseException as error:
        if received or isinstance(error, KeyboardInterrupt):  # whatever came of it
            _fail(_INTERRUPTED, 128 + (received or [signal.SIGINT])[0])
        if isinstance(error, BeholderError):
            _fail(str(error), 1)
        if (
            isinstance(error, OSError)
            and error.errno is not None
            and not (error.filename is None and os.environ.get("BEHOLDER_TRACEBACK"))
        ):
            place = "the system reports a failure and names no file (BEHOLDER_TRACEBACK=1 shows where)"
            if error.filename is not None:
                place = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename)
            _fail(f"{place}: {os_error_text(error)}", 1)
        if isinstance(error, MemoryError):
            _fail("out of memory; give a smaller --memory, or close other programs", 1)
        if os.environ.get("BEHOLDER_TRACEBACK"):
            raise
        text = " ".join(str(error).split()) or "no message"
        _fail(f"internal error ({type(error).__name__}: {text}); please report it with BEHOLDER_TRACEBACK=1 set", 1)


def _end_orderly() -> list[int]:
    """SIGTERM and SIGHUP end as Ctrl-C does, so that temporary folders and processes go; a second one of a kind ends at once.

    A closed terminal sends SIGHUP twice (the shell does, then the system), so more of those change nothing. One of another kind
    that comes while the first is obeyed disturbs nothing either.
    Returns a list to which the number of a signal that came is added. A signal that is ignored (nohup) stays so.
    """
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if number != signal.SIGHUP:
            signal.signal(number, signal.SIG_DFL)
        if len(received) == 1:
            raise KeyboardInterrupt(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, interrupt)
    return received


def _fail(text: str, status: int) -> None:
    sys.stdout.flush()
    print(f"beholder: {text}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
