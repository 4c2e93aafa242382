"""Work that no interrupt may stop half-way.

Python raises ``KeyboardInterrupt``, and whatever other signal handlers raise, in the main thread. Some work is so much
in the middle of things that nobody can pick up the pieces: numba's registries and caches belong to the process, and
after a compilation that was broken off, every later one may fail. So such work is done in a thread beside the main one,
which waits. An interrupt ends the waiting, at once; the work goes on to its end, and whoever needs it again finds it
done.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

Answer = TypeVar("Answer")

LAST_WAIT = 60.0
"""Seconds that the process waits at its end for work that was told to stop; the compiler hears of it late."""

_at_work: set[threading.Thread] = set()


def undisturbed(call: Callable[..., Answer], *args: Any) -> Answer:
    """``call(*args)``, in a thread of its own if an interrupt could come in between."""
    if threading.current_thread() is not threading.main_thread():
        return call(*args)
    done: Future[Answer] = Future()
    threading.Thread(target=_work, args=(done, call, args), daemon=True, name="racer-undisturbed").start()
    while not done.done():
        wait([done], timeout=0.05)  # a signal that another thread was told of does not end a longer one
    return done.result()


def _work(done: Future[Any], call: Callable[..., Any], args: tuple[Any, ...]) -> None:
    _at_work.add(threading.current_thread())
    try:
        done.set_result(call(*args))
    except BaseException as error:
        done.set_exception(error)
    finally:
        _at_work.discard(threading.current_thread())


@atexit.register
def _stop() -> None:
    """The process ends: nobody needs what is being made, and it must not be torn down under the compiler."""
    until = time.monotonic() + LAST_WAIT
    for thread in tuple(_at_work):
        while thread.is_alive() and time.monotonic() < until:  # again and again: callbacks from the compiler swallow it
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
            thread.join(0.05)
