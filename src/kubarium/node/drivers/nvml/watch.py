"""Health of this machine's GPUs: critical errors (XID), double-bit ECC errors, lost GPUs.

As the vendor's driver does (``device_health.go``): a GPU whose events cannot be had is
``unmonitored``, an error taints what it happened on, and what has happened stays until the agent
is started anew or somebody says otherwise. When NVML says that a GPU is lost, those that do not
answer are tainted, all of them if every one answers.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from kubarium.node.drivers.health import GPU_LOST, UNMONITORED, Health, read_health
from kubarium.node.drivers.nvml.discovery import Gpu
from kubarium.node.drivers.nvml.library import (
    DOUBLE_BIT_ECC,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    NOT_SUPPORTED,
    SINGLE_BIT_ECC,
    TIMEOUT,
    XID_CRITICAL,
    Nvml,
    code_of,
)

# What the driver logs for a double-bit ECC error.
_DOUBLE_BIT_XID = 48
# The largest that a taint is written for (``health``); NVIDIA's catalogue ends far below.
_MAX_XID = 9999
# nvml.h: an event of the whole GPU has this instance number.
WHOLE_GPU = 0xFFFFFFFF


class HealthWatch:
    """The GPUs' health so far. ``wait`` blocks: call it from a thread."""

    def __init__(self, nvml: Nvml, gpus: Sequence[Gpu]) -> None:
        """Registers for events; GPUs that cannot be watched are unmonitored from the start."""
        self._nvml = nvml
        self._gpus = gpus
        self._events: Any = None
        self._closed = False
        # NVML may not free an event set that a thread still waits on.
        self._in_use = threading.Lock()
        self.health: dict[str, Health] = {}
        # Whether the last wait was cut short by a lost GPU: NVML then says so at once, every time.
        self.is_cut_short = False
        try:
            self._events = nvml.nvmlEventSetCreate()
        except nvml.NVMLError:
            self._unwatched(gpus)
            return
        wanted = XID_CRITICAL | DOUBLE_BIT_ECC | SINGLE_BIT_ECC
        for gpu in gpus:
            try:
                types = wanted & nvml.nvmlDeviceGetSupportedEventTypes(gpu.handle)
                nvml.nvmlDeviceRegisterEvents(gpu.handle, types, self._events)
            except nvml.NVMLError:
                self._unwatched([gpu])

    def wait(self, timeout_ms: int) -> bool:
        """Until an event or the timeout; whether :attr:`health` is another now. At once where
        there is nothing to wait on."""
        with self._in_use:
            return not self._closed and self.is_watching and self._wait(timeout_ms)

    @property
    def is_watching(self) -> bool:
        """Whether there are events to be had at all."""
        return self._events is not None

    def _wait(self, timeout_ms: int) -> bool:
        before = dict(self.health)
        self.is_cut_short = False
        try:
            self._take(self._nvml.nvmlEventSetWait_v2(self._events, timeout_ms))
        except self._nvml.NVMLError as error:
            code = code_of(error)
            if code == GPU_IS_LOST:
                self.is_cut_short = True
                self._note([name for gpu in self._lost() for name in gpu.device_names], GPU_LOST)
            elif code in (NOT_SUPPORTED, FUNCTION_NOT_FOUND):
                self.free()
                self._unwatched(self._gpus)
            elif code != TIMEOUT:
                raise
        return before != self.health

    def stop(self, patience_s: float) -> bool:
        """Wait for events no more; whether nobody does any longer after ``patience_s``."""
        self._closed = True
        if not self._in_use.acquire(timeout=patience_s):
            return False
        self._in_use.release()
        return True

    def free(self) -> None:
        """Let go of the event set, on which nobody waits any more."""
        events, self._events = self._events, None
        if events is not None:
            self._nvml.nvmlEventSetFree(events)

    def _unwatched(self, gpus: Sequence[Gpu]) -> None:
        self._note([name for gpu in gpus for name in gpu.device_names], UNMONITORED)

    def _take(self, event: Any) -> None:
        kind = int(event.eventType)
        if kind not in (XID_CRITICAL, DOUBLE_BIT_ECC):
            return
        number = int(event.eventData) if kind == XID_CRITICAL else _DOUBLE_BIT_XID
        try:
            uuid = self._nvml.nvmlDeviceGetUUID(event.device)
        except self._nvml.NVMLError:
            self._note([name for gpu in self._gpus for name in gpu.device_names], GPU_LOST)
            return
        gpu = next((gpu for gpu in self._gpus if gpu.uuid == uuid), None)
        if gpu is not None:
            instance = (int(event.gpuInstanceId), int(event.computeInstanceId))
            self._note(_affected(gpu, instance), f"xid-{min(number, _MAX_XID)}")

    def _lost(self) -> list[Gpu]:
        lost = []
        for gpu in self._gpus:
            try:
                self._nvml.nvmlDeviceGetMemoryInfo(gpu.handle)
            except self._nvml.NVMLError as error:
                if code_of(error) == GPU_IS_LOST:
                    lost.append(gpu)
        return lost or list(self._gpus)

    def _note(self, devices: list[str], word: str) -> None:
        """What is fatal is not replaced by what is not."""
        new = read_health(word)
        for device in devices:
            known = self.health.get(device)
            if known is None or known.effect == "None" or new.effect != "None":
                self.health[device] = new


def _affected(gpu: Gpu, instance: tuple[int, int]) -> list[str]:
    """The devices that an error on an instance, or on the whole GPU, concerns."""
    if not gpu.mig_enabled:
        return [gpu.name]
    hit = [i for i in gpu.instances if (i.gpu_instance, i.compute_instance) == instance]
    return [gpu.instance_name(i) for i in hit] or (
        gpu.device_names if instance[0] == WHOLE_GPU else []
    )
