"""What a run was made with: for the report, and for telling whether a resumed run is the same run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from racer.bench.converter import plain, structured
from racer.bench.methods import Method
from racer.bench.peers import Peer
from racer.bench.questions import Question, digest
from racer.bench.run.machine import commit, device_name, model_digest, processor, versions
from racer.bench.settings import Settings
from racer.errors import ConfigError, first_line
from racer.files import write_whole
from racer.loading.loaded_model import LoadedModel

SAME = (
    "model", "model_digest", "dtype", "weights", "device", "device_name", "threads", "limit", "seed", "digest",
    "methods", "max_new_tokens", "budget", "temperature", "top_p", "batch_size", "cold", "compile", "pack", "peers",
    "torch", "transformers", "racer",
)  # fmt: skip
"""What must not change when a run is resumed."""


@attrs.frozen(kw_only=True)
class Source:
    """Where questions came from, and how many are asked."""

    source: str
    count: int


@attrs.frozen(kw_only=True)
class Setup:
    """``setup.json``, and the ``setup`` of ``results.json``: model, machine, versions, questions and settings."""

    model: str
    model_digest: str
    dtype: str
    weights: str = "plain"
    """``keep``, ``int8`` or ``int4`` where they are multiplied in few bits."""
    device: str
    device_name: str
    machine: str
    cores: int | None
    threads: int
    platform: str
    python: str
    torch: str
    transformers: str
    racer: str
    commit: str | None
    """Of all the checkouts that the run was made with, with commas between them."""
    date: str
    questions: list[Source]
    digest: str
    groups: dict[str, int]
    """Questions of each."""
    methods: list[str]
    lossy: list[str]
    max_new_tokens: int
    seed: int
    temperature: float
    top_p: float
    batch_size: int
    cold: bool
    compile: str
    pack: bool
    """Whether weights were packed, as ``auto`` found it."""
    budget: int | str
    limit: int | None
    peers: list[Peer] = attrs.field(factory=list)
    """Methods of other programs: where these are, and how they are started."""
    resumed: int = 0
    """How often."""


def describe(
    loaded: LoadedModel,
    methods: Sequence[Method],
    questions: Sequence[Question],
    settings: Settings,
    *,
    peers: Sequence[Peer] = (),
    budget: int | str,
    limit: int | None,
) -> Setup:
    """The setup of a run that begins now."""
    import torch

    from racer.core.packed_weights import pack

    model = loaded.model
    given: dict[str, Any] = attrs.asdict(settings) | {"pack": pack(model, settings.pack) is not None}
    return Setup(
        model=loaded.name,
        model_digest=model_digest(model),
        dtype=str(model.dtype).removeprefix("torch."),
        weights=loaded.weights,
        device=str(model.device),
        device_name=device_name(model.device),
        machine=processor(),
        threads=torch.get_num_threads(),
        **versions(),
        commit=commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        questions=[Source(source=name, count=n) for name, n in Counter(q.source for q in questions).items()],
        digest=digest(questions),
        groups=dict(Counter(question.group for question in questions)),
        methods=[method.name for method in methods],
        lossy=[method.name for method in methods if not method.exact],
        budget=budget,
        limit=limit,
        peers=list(peers),
        **given,
    )


def begin(path: Path, setup: Setup, *, begun: bool, resume: bool) -> Setup:
    """Write the setup of a new run, or check it against the one that is resumed; the run's setup.

    :param begun: whether there are trials already.
    :raises ConfigError: there is a run already and it shall not be resumed, or it was begun otherwise.
    """
    if not begun:
        _write(path, setup)
        return setup
    if not resume:
        raise ConfigError(f"{path.parent} holds a run already: give --resume to go on with it, or another --output")
    known = _read(path)
    for name in SAME:
        before, now = getattr(known, name), getattr(setup, name)
        if before != now:
            what = "questions of digest" if name == "digest" else name.replace("_", " ")
            raise ConfigError(
                f"{path.parent} was begun with {what} {_shown(before)}, not {_shown(now)}: resume it with what it was "
                "begun with, or give another --output"
            )
    commits = dict.fromkeys(filter(None, [*(known.commit or "").split(", "), setup.commit]))
    known = attrs.evolve(known, resumed=known.resumed + 1, commit=", ".join(commits) or None)
    _write(path, known)
    return known


def _read(path: Path) -> Setup:
    try:
        return structured(json.loads(path.read_text(encoding="utf-8")), Setup)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is missing or damaged ({first_line(error)}), so nobody knows its run: give another --output"
        ) from error


def _write(path: Path, setup: Setup) -> None:
    write_whole(path, json.dumps(plain(setup), indent=2, ensure_ascii=False) + "\n")


def _shown(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
