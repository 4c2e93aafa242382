"""For how many rows at once packed weights are used.

oneDNN makes machine code for every number of rows that it meets, and keeps it: 0.6 MiB for each shape of weight in
float32, 2.4 MiB beyond 200 rows, 0.15 MiB in bf16. Prompts come in all lengths, so that this grew with every request,
to a gigabyte and more; torch's own product keeps nothing in float32. With hundreds of rows the copy gains little.
"""

from __future__ import annotations

FEW = 64
"""Up to so many rows, any number of them: one text's trees."""
MANY, STEP = 256, 16
"""Up to so many, multiples of the latter: batches' trees. At 76 numbers of rows and six shapes of weights all code
together takes 300 MiB at most in float32, 70 MiB in bf16."""


def worth_packing(count: int) -> bool:
    """Whether so many rows are of a number for which there may be code of its own."""
    return count <= FEW or (count <= MANY and count % STEP == 0)
