"""The model's and the machine's names, and the versions of what runs on it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import racer


def model_digest(model: Any) -> str:
    """Of the configuration and the number of weights, not of the weights: those are too many to read."""
    config = {name: value for name, value in model.config.to_dict().items() if not name.startswith("_")}
    text = json.dumps([config, model.num_parameters()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def device_name(device: Any) -> str:
    """The GPU's or the processor's."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def processor() -> str:
    """Its name, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, Any]:
    """Of the system and the libraries, and the number of cores."""
    import torch
    import transformers

    return {
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "racer": racer.__version__,
    }


def commit() -> str | None:
    """Of the checkout that the package was installed from, with a + where files were changed; None elsewhere."""
    root = Path(racer.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    with suppress(OSError, subprocess.SubprocessError):
        ask = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None
