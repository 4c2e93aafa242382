"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write beside ``path``, then rename: nobody reads half a file, and a failure leaves what was there.

    Text is written in UTF-8. A link stays one, and what is no regular file (a terminal, a pipe) is written into.

    :raises OSError: it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    path = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            path.write_bytes(data)
            return
    beside = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
