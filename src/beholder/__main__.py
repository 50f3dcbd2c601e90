"""The program: command line in, exit status out. Every failure a user can mend ends in one line, never in a traceback."""

from __future__ import annotations

import contextlib
import os
import sys

_INTERRUPTED = "interrupted; run the same command again to continue"


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 failed, 2 wrong usage, 3 some inputs rejected, 130 interrupted."""
    from beholder.errors import BeholderError, os_error_text

    try:
        from beholder.cli.app import app

        app()
    except BeholderError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail(_INTERRUPTED, 130)
    except SystemExit as stop:  # Typer turns Ctrl-C into this status without a word
        if stop.code == 130:
            _fail(_INTERRUPTED, 130)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'the output stream'}: {os_error_text(error)}", 1)
    except MemoryError:
        _fail("out of memory; give a smaller --memory, or close other programs", 1)
    except Exception as error:
        if os.environ.get("BEHOLDER_TRACEBACK"):
            raise
        text = " ".join(str(error).split()) or "no message"
        _fail(f"internal error ({type(error).__name__}: {text}); please report it with BEHOLDER_TRACEBACK=1 set", 1)


def _fail(text: str, status: int) -> None:
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(f"beholder: {text}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
