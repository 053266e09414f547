"""The command line: parse, dispatch, exit code.

    python -m tf_lottery --flagfile=flags/quickstart.flags

Exit codes: 0 done; 1 the run failed; 2 the command line cannot be used; 129 its terminal was
closed (SIGHUP); 130 interrupted (Ctrl-C); 143 terminated (SIGTERM). Errors are one
line on stderr; ``-v`` adds the traceback.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and not __package__:  # python tf_lottery/main.py
    # Its folder comes first then, and its modules would be taken for others of their names.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import contextlib
import traceback
from collections.abc import Sequence

from tf_lottery import cli
from tf_lottery.errors import LotteryError
from tf_lottery.interruption import Terminated, termination_raised
from tf_lottery.options import command as flags
from tf_lottery.studies.experiments import EXPERIMENTS
from tf_lottery.terminal import open_streams


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (without the program's name); returns the exit code.

    An empty one shows the help: what it would run takes hours.
    """
    open_streams()
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    verbose = any(argument in ("-v", "--verbose") for argument in arguments)
    try:
        command = flags.parse(arguments, tuple(EXPERIMENTS))
        if isinstance(command, str):
            print(command)
            return 0
        verbose = command.verbose
        with termination_raised():
            return cli.execute(command)
    except LotteryError as error:
        if verbose:
            traceback.print_exc()
        _complain(error)
        return error.exit_code
    except Terminated as error:
        _complain("terminated; the same command goes on where it was saved last")
        return int(str(error.code))
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on where it was saved last")
        return 130
    except BrokenPipeError:
        return 141
    except Exception as error:
        if verbose:
            traceback.print_exc()
        _complain(f"unexpected {type(error).__name__}: {error} (-v shows the traceback)")
        return 1


def _complain(message: object) -> None:
    """One line on stderr, whatever the message holds."""
    with contextlib.suppress(OSError):  # a terminal that was closed
        print("tf_lottery: " + " ".join(str(message).split()), file=sys.stderr, flush=True)


def console() -> None:
    """Entry point of the console script."""
    sys.exit(main())


if __name__ == "__main__":
    console()
