"""When a control plane's process looks for garbage that reference counts do not free.

Documents are trees, so counts free nearly all of them at once; what is left are the cycles of tasks
and tracebacks. Python's own thresholds are made for small heaps: with 10,000 pods in memory a full
collection takes half a second, and these took a quarter of all CPU time. To look at an object once
costs half a microsecond, for by then it has left the processor's caches, and so do those that the
work needs; a pod has fifty. So the look waits until there is nothing else to do.
"""

from __future__ import annotations

import asyncio
import gc
import time

# Without a look of ours: new objects (more made than freed) before a collection of the young ones,
# young collections before one of the middle generation, and middle ones before a full one. 50,000
# pods come to 2.5 million, and none of them was garbage.
THRESHOLDS = (10_000_000, 5, 10)

LOOK_EVERY_S = 5.0
NEW_OBJECTS = 20_000  # fewer are not worth a look
IDLE_SHARE = 0.2  # of a core; a process that uses less has time for a look
LATEST_S = 600.0  # after the last look, for a process that is never idle
YOUNG_LOOKS = 50  # before one at everything


def tune_collector() -> None:
    """For a process that is a control plane: collect less often, and never look at what is here.

    Call it once when everything is imported.
    """
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


async def collect_when_idle() -> None:
    """Until cancelled: look for garbage when much is new and the process has little to do."""
    looks, looked, used = 0, time.monotonic(), time.process_time()
    while True:
        began = time.monotonic()
        await asyncio.sleep(LOOK_EVERY_S)
        now = time.monotonic()
        busy = (time.process_time() - used) / (now - began)
        is_time = busy < IDLE_SHARE or now - looked > LATEST_S
        if is_time and gc.get_count()[0] > NEW_OBJECTS:
            looks, looked = looks + 1, now
            gc.collect(2 if looks % YOUNG_LOOKS == 0 else 1)
        used = time.process_time()
