"""Processes that end with the one that started them; imports nothing but the standard library."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def leave_interrupts_to_parent() -> None:
    """Make this process, one of ``multiprocessing``'s, ignore Ctrl-C and end once its parent has, in whatever way.

    Ctrl-C goes to every process of a terminal; the parent decides what it means. A thread is left behind that ends this
    process even from within a call of a compiler or a kernel, however long that takes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
