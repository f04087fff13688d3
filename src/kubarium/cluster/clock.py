"""The real clock: the one place that reads the machine's time."""

from __future__ import annotations

import asyncio
import time


class RealClock:
    """Wall time and the event loop's own sleep. Satisfies ``base.clock.Clock``."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
