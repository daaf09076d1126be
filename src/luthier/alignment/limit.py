"""Work that may not take longer than so many seconds.

Enters: a call without arguments. Leaves: what it gives, or Overrun. In the main thread it is interrupted by an alarm, which
stops Python code, sleeping, reading and regular expressions. Elsewhere it runs in a thread of its own, which is told to stop and
left behind.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
AGAIN = 0.2
"""Seconds after which work that swallowed the interruption is interrupted again."""


class Overrun(BaseException):
    """Time is over. Not an Exception, so that the work does not take it for one of its own."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """What the work gives. Raises Overrun when it takes longer than `seconds`, and what the work raises."""
    if (
        threading.current_thread() is threading.main_thread()
        and hasattr(signal, "setitimer")
        and not any(signal.getitimer(signal.ITIMER_REAL))
    ):
        return _with_alarm(seconds, work)
    return _in_thread(seconds, work)


def _with_alarm(seconds: float, work: Callable[[], T]) -> T:
    working = True

    def stop(_number: int, _frame: FrameType | None) -> None:
        if working:  # the alarm may go off after the work is done
            raise Overrun

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
        try:
            return work()
        finally:
            working = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _in_thread(seconds: float, work: Callable[[], T]) -> T:
    found: dict[str, Any] = {}

    def run() -> None:
        try:
            found["value"] = work()
        except Overrun:
            pass
        except BaseException as error:  # raised again below, in the thread that asked
            found["error"] = error

    thread = threading.Thread(target=run, daemon=True, name="reward")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Overrun))
        raise Overrun
    if "error" in found:
        raise found["error"]
    return found["value"]  # type: ignore[no-any-return]
