"""What drafters learned with one model, by configuration: kept from call to call, gone with the model."""

from __future__ import annotations

import threading
from collections import OrderedDict

from racer.config import DecodeConfig
from racer.engine.strategy_set import StrategySet

MAX_KEPT = 8
"""Configurations of a model whose drafters are kept; the least recently used one makes room."""


class StrategySets:
    """The strategy sets of one model."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[DecodeConfig, StrategySet] = OrderedDict()

    def of(self, config: DecodeConfig) -> StrategySet:
        """The one that this configuration names.

        :raises UnknownStrategy: the configuration names something that nobody registered.
        """
        with self._lock:
            strategies = self._kept.get(config) or StrategySet(config)
            self._kept[config] = strategies
            self._kept.move_to_end(config)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            return strategies
