"""A program that stands for ``llama-server`` where that fails: it speaks its HTTP and decodes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = """#!{python}
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

MODE, HERE = {mode!r}, {here!r}
if "--version" in sys.argv:
    print("version: 1 (false)", file=sys.stderr)
    sys.exit(0)
with open(HERE + "/starts", "a") as file:
    print(os.getpid(), *sys.argv[1:], *(name for name in os.environ if name.startswith("LLAMA_ARG")), file=file)
if MODE == "start":
    print("loading", "error: this is no model", sep="\\n", file=sys.stderr)
    sys.exit(3)

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *given):
        pass

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply(200, {{"status": "ok"}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if MODE == "die":
            print("GGML_ASSERT(false) failed", file=sys.stderr, flush=True)
            os._exit(4)
        if MODE == "refuse":
            return self.reply(400, {{"error": {{"message": "too long"}}}})
        if MODE == "empty":
            return self.reply(200, {{"tokens": []}})
        timings = {{"predicted_ms": 0.01, "draft_n": 5, "draft_n_accepted": 3}}
        self.reply(200, {{"tokens": [5] * body["n_predict"], "timings": timings}})

HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def build(folder: Path, mode: str) -> Path:
    """The program, which fails as ``mode`` says: at the ``start``, to ``die``, ``refuse`` or answer ``empty``."""
    path = folder / "llama-server"
    path.write_text(PROGRAM.format(python=sys.executable, mode=mode, here=str(folder)), encoding="utf-8")
    path.chmod(0o755)
    return path


def starts(folder: Path) -> list[list[str]]:
    """Of each process that was started: its id, its arguments, and what of the environment it would have read."""
    path = folder / "starts"
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
