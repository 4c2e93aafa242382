"""A ``llama-server`` process of our own: started, asked over HTTP, stopped."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

from racer.errors import RacerError

START_SECONDS = 600
"""A large model is read from a slow disk in that time."""
ANSWER_SECONDS = 3600
STOP_SECONDS = 10
LOG_LINES = 3
"""Of a server that died, as many of its last lines are told."""


class PeerFailed(RacerError):
    """Another program did not start, died, or refused to answer."""


class LlamaServer:
    """Runs from construction until :meth:`stop`. Its log is kept, for the case that it dies.

    :raises PeerFailed: it does not start.
    """

    def __init__(self, program: str, options: Sequence[str]) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process
        self._port = _free_port()
        address = ["--host", "127.0.0.1", "--port", str(self._port)]
        # its own session: an interrupt from the terminal is for us, who stop it. Nor shall the user's settings count
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_ARG_")}
        try:
            self._process = subprocess.Popen(
                [program, *options, *address], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
                start_new_session=True, env=environment, preexec_fn=_dying_with_us(),
            )  # fmt: skip
        except OSError as error:
            self._log.close()
            raise PeerFailed(f"{program} does not start: {error.strerror or error}") from error
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    @property
    def running(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send JSON, get JSON.

        :raises PeerFailed: it died, or refused; the message says what it wrote.
        """
        try:
            status, text = self._request("POST", path, json.dumps(body), ANSWER_SECONDS)
        except (OSError, http.client.HTTPException) as error:
            raise self._dead(f"broke off: {error or type(error).__name__}") from error
        answer: Any = None
        with contextlib.suppress(ValueError):
            answer = json.loads(text)
        if status != 200 or not isinstance(answer, dict):
            raise PeerFailed(f"llama-server refused with status {status}: {' '.join(text.split())[:300]}")
        return answer

    def stop(self) -> None:
        """End the process, gently at first."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()

    def _wait(self) -> None:
        """Until the model is loaded."""
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends:
            if not self.running:
                raise self._dead("does not start")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._request("GET", "/health", None, 10)[0] == 200:
                    return
            time.sleep(0.05)
        raise self._dead(f"is not ready after {START_SECONDS} s")

    def _request(self, method: str, path: str, body: str | None, seconds: float) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=seconds)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def _dead(self, what: str) -> PeerFailed:
        """What happened, the exit code if there is one, and the last lines of the log."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)  # a connection breaks a moment before its process is gone
        code = self._process.poll()
        ended = "" if code is None else f" (exit code {code})"
        self._log.seek(0)
        lines = [" ".join(line.split()) for line in self._log.read().decode("utf-8", "replace").splitlines()]
        last = " | ".join([line for line in lines if line][-LOG_LINES:]) or "nothing"
        return PeerFailed(f"llama-server {what}{ended}; its log ends with: {last}")


def _dying_with_us() -> Callable[[], object] | None:
    """What a new process shall do before its program: on Linux, ask to be ended when this one is killed."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, set_death_signal = ctypes.CDLL(None).prctl, 1  # looked up here: between fork and exec as little as can be
    return lambda: prctl(set_death_signal, int(signal.SIGTERM))


def _free_port() -> int:
    """Free a moment ago, at least."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
