"""Python's collector of garbage, left out where it only costs.

Who reads a whole cluster makes millions of objects and lets go of none. The collector looks at all
of them again and again meanwhile: of the 3.8 seconds in which a question about 5,000 nodes with
40,000 devices was answered, it took 2.2.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No collections within; afterwards as before. What is not in a cycle is freed as always."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
