"""The guard around a whole program: every way out is an exit code and at most one sentence on stderr.

It guards the imports of the program, too, so it imports little itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TextIO

from edge.cli.faults import explain
from edge.cli.streams import open_streams, silence
from edge.errors import Note
from edge.jobs.interrupt import Interrupted
from edge.machine.early import SIGNALLED, SIGNALS

DEBUG = "EDGE_DEBUG"  # environment variable of --debug: tracebacks are shown
OFF = ("", "0")  # its values that mean no
AGAIN_S = 0.01  # until a signal that came at a bad moment is sent again


def run_app(app: Callable[[], object]) -> NoReturn:
    """Calls `app` and ends the process with its exit code.

    It is the main function of a process: signal handlers, hooks and standard streams stay as it sets them.
    A command that ends well has 0, one that is refused 2, one that cannot fetch a model 3, a fault of ours
    1, one that a signal ends 128 and its number. A reader of standard output that closes the pipe early is
    no error.
    """
    received: list[int] = []
    watch_signals(received)
    set_hooks(received)
    try:
        open_streams()
        code = guarded(app, received)
    finally:
        received.append(0)  # from here on a signal ends the process at once
    sys.exit(code)


def guarded(app: Callable[[], object], received: list[int]) -> int | str | None:
    """Calls `app`; its exit code. `received` has the numbers of the signals that came meanwhile."""
    code: int | str | None = 0
    try:
        try:
            app()
        except SystemExit as end:
            # The libraries of the command line end so when a reader has closed the pipe.
            code = 0 if isinstance(end.__context__, BrokenPipeError) else end.code
        sys.stdout.flush()
    except BrokenPipeError:
        code = 0
    except Interrupted as interruption:
        code = interruption.code
    except BaseException as error:
        # A signal's exception may arrive as another one: native modules turn it into an ImportError.
        interrupted = isinstance(error, KeyboardInterrupt) or received
        code = SIGNALLED + (received or [signal.SIGINT])[0] if interrupted else tell(error)
    silence(sys.stdout)
    silence(sys.stderr)
    return code


def watch_signals(received: list[int]) -> None:
    """Makes SIGINT, SIGTERM and SIGHUP exceptions, so that what is open is closed; notes their numbers.

    A signal that is ignored (nohup, `&` in a script) stays ignored. In an import it comes again a little
    later, since modules swallow exceptions there.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        if 0 in received:
            os._exit(SIGNALLED + number)
        if importing(frame):
            send_again(number)
            return
        received.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(SIGNALLED + number)

    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, leave)


def send_again(number: int) -> None:
    """Sends this process a signal in a moment, when its main function is elsewhere."""
    threading.Timer(AGAIN_S, os.kill, (os.getpid(), number)).start()


def importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported somewhere below this frame."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False


def set_hooks(received: list[int]) -> None:
    """Says in one line what Python would say with a traceback outside the main function."""
    shown = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, Note):
            say("note", str(message), "yellow")
        else:
            shown(message, category, filename, lineno, file, line)

    def lost(unraisable: sys.UnraisableHookArgs) -> None:
        """An exception in a destructor or callback, where it cannot end anything."""
        if isinstance(unraisable.exc_value, (KeyboardInterrupt, SystemExit)):
            send_again(received[0] if received else signal.SIGINT)
        elif unraisable.exc_value is not None:
            tell(unraisable.exc_value)

    def in_thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
            tell(arguments.exc_value)

    warnings.showwarning = show
    sys.unraisablehook = lost
    threading.excepthook = in_thread


def tell(error: BaseException) -> int:
    """Prints an error as one sentence on stderr, with --debug its traceback first; the exit code."""
    if os.environ.get(DEBUG, "") not in OFF:
        import traceback  # only here: it is slow to import

        traceback.print_exception(error)
    code, sentence = explain(error)
    say("error", " ".join(sentence.split()), "red")
    return code


def say(kind: str, text: str, colour: str) -> None:
    """Prints an error or a note on stderr, also where the libraries for that cannot be loaded."""
    try:
        from edge.cli.common import errors
        from edge.cli.terminal import escaped

        errors.print(f"{kind}: {escaped(text)}", style=colour, markup=False, soft_wrap=True)
    except Exception:
        print(f"{kind}: {ascii(text)[1:-1]}", file=sys.stderr)
