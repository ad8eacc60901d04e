"""Replace this process by a program that the kernel kills when the process that started it is gone.

::

    python -I -S leash.py PARENT PROGRAM [ARGUMENT ...]

PARENT is the process id of whoever starts it, or ``-`` where it stands among the arguments as ``--parent-pid ID``
(so Flower's SuperExec starts a ServerApp). Linux keeps the wish to be killed over ``execv``; other systems know
no such wish, and the program then ends when it is told to and not before.

Run by its path, with the standard library alone: it stands between every program and its start.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_NO_SUCH_PROCESS = 3


def leash(arguments: Sequence[str]) -> None:
    """Tie this process to its parent and become the program; returns only if the program cannot be started.

    Args:
        arguments: Parent, program, and the program's arguments.
    """
    word, command = arguments[0], list(arguments[1:])
    parent = int(command[command.index("--parent-pid") + 1] if word == "-" else word)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the wish was made: nobody would ever end this process
        os._exit(_NO_SUCH_PROCESS)
    os.execv(command[0], command)  # noqa: S606 - the program is the caller's, no shell is between


if __name__ == "__main__":
    leash(sys.argv[1:])
