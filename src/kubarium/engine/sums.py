"""Sums over all nodes that are exact, whatever the nodes say they have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LOW = 32


def exact_sum(column: NDArray[np.int64]) -> int:
    """The sum of a column. Some hundred nodes of nearly unlimited amounts exceed 64 bits.

    >>> exact_sum(np.full(1000, 2**56)) == 1000 * 2**56
    True
    """
    # The ufunc's own reduction: a method would call it by way of two more functions.
    high, low = np.add.reduce(column >> _LOW), np.add.reduce(column & ((1 << _LOW) - 1))
    return (int(high) << _LOW) + int(low)
