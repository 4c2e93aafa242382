"""How many nodes a step may score."""

from racer.budgets.auto import Auto, racer_register
from racer.budgets.base import SIZES, Budget, Fixed
from racer.budgets.duck import as_budget
from racer.budgets.record import ByRecord
from racer.budgets.scores import ByScore

__all__ = ["SIZES", "Auto", "Budget", "ByRecord", "ByScore", "Fixed", "as_budget", "racer_register"]
