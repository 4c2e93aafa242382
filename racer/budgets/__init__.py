"""How many nodes a step may score."""

from racer.budgets.adapt import as_budget
from racer.budgets.auto import Auto, racer_register
from racer.budgets.base import SIZES, Budget, Fixed
from racer.budgets.by_record import ByRecord
from racer.budgets.by_score import ByScore

__all__ = ["SIZES", "Auto", "Budget", "ByRecord", "ByScore", "Fixed", "as_budget", "racer_register"]
