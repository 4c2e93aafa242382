"""What a run was made with: for the report, and for telling whether a resumed run is the same run."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import racer
from racer.bench.methods import Method
from racer.bench.questions import Question, digest
from racer.bench.settings import Settings
from racer.errors import ConfigError
from racer.loading.loaded import LoadedModel

SAME = (
    "model", "model_digest", "dtype", "device", "device_name", "threads", "limit", "seed", "digest", "methods",
    "max_new_tokens", "budget", "temperature", "top_p", "batch_size", "cold", "compile", "pack", "torch",
    "transformers", "racer",
)  # fmt: skip
"""What must not change when a run is resumed."""


def describe(
    loaded: LoadedModel, methods: Sequence[Method], questions: Sequence[Question], settings: Settings
) -> dict[str, Any]:
    """Model, machine, versions, questions and settings as plain data."""
    import torch
    import transformers

    from racer.core.packed_weights import pack

    model = loaded.model
    return {
        "model": loaded.name,
        "model_digest": _model_digest(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "device_name": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else _processor(),
        "machine": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "racer": racer.__version__,
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "questions": [{"source": name, "count": n} for name, n in Counter(q.source for q in questions).items()],
        "digest": digest(questions),
        "groups": dict(Counter(question.group for question in questions)),
        "methods": [method.name for method in methods],
        "lossy": [method.name for method in methods if not method.exact],
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "batch_size": settings.batch_size,
        "cold": settings.cold,
        "compile": settings.compile,
        "pack": pack(model, settings.pack),
    }


def begin(path: Path, setup: dict[str, Any], *, begun: bool, resume: bool) -> dict[str, Any]:
    """Write the setup of a new run, or check it against the one that is resumed; the run's setup.

    :param begun: whether there are trials already.
    :raises ConfigError: there is a run already and it shall not be resumed, or it was begun otherwise.
    """
    if not begun:
        _write(path, setup | {"resumed": 0})
        return setup | {"resumed": 0}
    if not resume:
        raise ConfigError(f"{path.parent} holds a run already: give --resume to go on with it, or another --output")
    known = _read(path)
    for name in SAME:
        if known.get(name) != setup.get(name):
            what = "questions of digest" if name == "digest" else name.replace("_", " ")
            raise ConfigError(
                f"{path.parent} was begun with {what} {_shown(known.get(name))}, not {_shown(setup.get(name))}: "
                "resume it with what it was begun with, or give another --output"
            )
    known["resumed"] += 1
    if setup["commit"] not in (commits := (known["commit"] or "").split(", ")) and setup["commit"]:
        known["commit"] = ", ".join([*filter(None, commits), setup["commit"]])
    _write(path, known)
    return known


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is missing or damaged, so nobody knows its run: give another --output") from error
    return found


def _write(path: Path, setup: dict[str, Any]) -> None:
    new = path.with_suffix(".part")
    new.write_text(json.dumps(setup, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(path)


def _shown(value: Any) -> str:
    text = ",".join(value) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _model_digest(model: Any) -> str:
    """Of the configuration and the number of weights, not of the weights: those are too many to read."""
    config = {name: value for name, value in model.config.to_dict().items() if not name.startswith("_")}
    text = json.dumps([config, model.num_parameters()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Of the checkout that the package was installed from, with a + where files were changed; None elsewhere."""
    root = Path(racer.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    with suppress(OSError, subprocess.SubprocessError):
        ask = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None
