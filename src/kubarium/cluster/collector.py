"""How often a control plane's process looks for garbage that reference counts do not free.

Documents are trees, so counts free nearly all of them at once; what is left are the cycles of tasks
and tracebacks. Python's own thresholds are made for small heaps: with 10,000 pods in memory a full
collection takes half a second, and these took a quarter of all CPU time.
"""

from __future__ import annotations

import gc

# New objects before a collection of the young ones, young collections before one of the middle
# generation, and middle ones before a full one (which also waits until a quarter is new).
THRESHOLDS = (20_000, 20, 50)


def tune_collector() -> None:
    """For a process that is a control plane: collect less often, and never look at what is here.

    Call it once when everything is imported.
    """
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
