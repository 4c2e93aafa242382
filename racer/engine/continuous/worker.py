"""The engine's thread."""

from __future__ import annotations

import atexit
import threading
import weakref

import torch

from racer.engine.continuous.scheduler import Scheduler

_working: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter goes, and torch with it."""
    for worker in list(_working):
        worker.close()


class Worker:
    """Takes a scheduler's turns as long as there is something to do, and waits for more."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._thread = threading.Thread(target=self._run, name="racer-engine", daemon=True)

    def start(self) -> None:
        """Decode from now on."""
        self._thread.start()
        _working.add(self)

    def abandon(self) -> None:
        """Nobody can ask for anything any more: end, but wait for nothing. Garbage is collected in any thread."""
        self._scheduler.shut()
        self._scheduler.cancel_all()

    def close(self, drain: float | None = None) -> None:
        """Refuse new requests, let those that are there end within ``drain`` seconds, and cancel the others."""
        scheduler = self._scheduler
        scheduler.shut()
        if drain and self._thread.is_alive():
            with scheduler.news:
                scheduler.news.wait_for(lambda: not scheduler.busy, drain)
        scheduler.cancel_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    @torch.no_grad()
    def _run(self) -> None:
        try:
            while self._waits():
                self._scheduler.turn()
        except BaseException as error:
            self._scheduler.give_up(error)
            raise

    def _waits(self) -> bool:
        """Wait for something to do; whether there is."""
        scheduler = self._scheduler
        with scheduler.news:
            scheduler.news.notify_all()  # whoever waits for the end of all
            while not scheduler.busy:
                scheduler.rest()
                if scheduler.closed:
                    return False
                scheduler.news.wait()
        return True
