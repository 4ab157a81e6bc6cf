"""Which measured times compare: those of cells that were computed in the same timing session of a machine."""

from __future__ import annotations

import numpy as np
import pandas as pd

APART_H = 3.0
"""Hours between two cells beyond which they count as timed in different sessions, whose times do not compare.

The same cells took 45 % longer on the same machine within a day; all tables of the tiny backbone take half an hour.
"""
MARK = "§"
"""What follows a speed-up that divides such times; the caption explains it."""


def hours_apart(cells: pd.DataFrame, base: pd.DataFrame) -> float:
    """Most hours that lie between computing a cell and computing the one of the same benchmark that it is held against.

    Args:
        cells, base: indexed by benchmark, with ``started`` and ``finished`` in seconds.

    Returns:
        0 where the two overlap, and where cells do not say when they were computed.
    """
    own, other = cells.align(base, join="inner", axis=0)
    between = np.maximum(own["started"], other["started"]) - np.minimum(own["finished"], other["finished"])
    return max(0.0, float(between.fillna(0.0).max() / 3600)) if len(between) else 0.0
