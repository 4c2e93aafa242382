"""The engine's thread."""

from __future__ import annotations

import threading

import torch

from racer.engine.continuous.scheduler import Scheduler


class Worker:
    """Takes a scheduler's turns as long as there is something to do, and waits for more."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._thread = threading.Thread(target=self._run, name="racer-engine", daemon=True)

    def start(self) -> None:
        """Decode from now on."""
        self._thread.start()

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
        scheduler = self._scheduler
        while True:
            with scheduler.news:
                scheduler.news.notify_all()  # whoever waits for the end of all
                while not scheduler.busy:
                    scheduler.rest()
                    if scheduler.closed:
                        return
                    scheduler.news.wait()
            try:
                scheduler.turn()
            except BaseException as error:
                scheduler.give_up(error)
                raise
