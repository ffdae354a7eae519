"""The command ``crescendo``."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line, and ends the process with its exit code."""
    # Python would only note the signal, and look at it when the command is done. If the command was started to ignore
    # it, as in the background of a script, it does.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from . import _crescendo

    sys.exit(_crescendo.main(["crescendo", *sys.argv[1:]]))
