"""NVML played: the functions of ``library.Nvml`` over GPUs that a test describes."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from types import SimpleNamespace as Value


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(f"error {value}")
        self.value = value


@dataclass
class Mig:
    uuid: str
    name: str
    gi: int
    ci: int = 0
    profile_id: int = 19
    start: int = 0
    size: int = 1
    memory_mb: int = 4864
    multiprocessors: int = 14
    memory: int = 4864 << 20
    used: int = 100 << 20
    broken: dict[str, int] = field(default_factory=dict)


@dataclass
class Board:
    uuid: str
    minor: int
    bus_id: str = "00000000:1B:00.0"
    name: str = "NVIDIA H100 80GB HBM3"
    migs: list[Mig] = field(default_factory=list)
    mig_mode: int = 0
    broken: dict[str, int] = field(default_factory=dict)  # function -> error number
    memory: int = 81559 << 20
    used: int = 512 << 20


class FakeNvml:
    """Handles are the boards and instances themselves."""

    NVMLError = NVMLError

    def __init__(self, *boards):
        self.boards = boards
        self.broken = {}  # of the library itself: function -> error number
        self.events = queue.Queue()
        self.registered = []
        self.is_open = False
        self.waiting = False

    def _ask(self, handle, name):
        number = getattr(handle, "broken", {}).get(name)
        if number is not None:
            raise NVMLError(number)

    def __getattr__(self, name):
        raise AttributeError(f"the driver asks for {name}, which NVML is not known to be asked")

    def nvmlInit(self):
        self.is_open = True

    def nvmlShutdown(self):
        self.is_open = False

    def nvmlSystemGetDriverVersion(self):
        self._ask(self, "DriverVersion")
        return "535.104.05"

    def nvmlSystemGetCudaDriverVersion_v2(self):
        self._ask(self, "CudaDriverVersion")
        return 12020

    def nvmlDeviceGetCount(self):
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index):
        self._ask(self.boards[index], "HandleByIndex")
        return self.boards[index]

    def nvmlDeviceGetUUID(self, handle):
        self._ask(handle, "UUID")
        return handle.uuid

    def nvmlDeviceGetName(self, handle):
        self._ask(handle, "Name")
        return handle.name

    def nvmlDeviceGetMinorNumber(self, handle):
        self._ask(handle, "MinorNumber")
        return handle.minor

    def nvmlDeviceGetBrand(self, handle):
        self._ask(handle, "Brand")
        return 14

    def nvmlDeviceGetArchitecture(self, handle):
        self._ask(handle, "Architecture")
        return 9

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        self._ask(handle, "CudaComputeCapability")
        return (9, 0)

    def nvmlDeviceGetMemoryInfo(self, handle):
        self._ask(handle, "MemoryInfo")
        return Value(total=handle.memory, used=handle.used, free=handle.memory - handle.used)

    def nvmlDeviceGetPciInfo(self, handle):
        self._ask(handle, "PciInfo")
        return Value(busId=handle.bus_id.encode())

    def nvmlDeviceGetAddressingMode(self, handle):
        self._ask(handle, "AddressingMode")
        return 1

    def nvmlDeviceGetMigMode(self, handle):
        self._ask(handle, "MigMode")
        return [handle.mig_mode, handle.mig_mode]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        self._ask(handle, "MaxMigDeviceCount")
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):
        if index >= len(handle.migs):
            raise NVMLError(6)
        return handle.migs[index]

    def nvmlDeviceGetGpuInstanceId(self, handle):
        return handle.gi

    def nvmlDeviceGetComputeInstanceId(self, handle):
        return handle.ci

    def nvmlDeviceGetGpuInstanceById(self, handle, number):
        self._ask(handle, "GpuInstanceById")
        return next(mig for mig in handle.migs if mig.gi == number)

    def nvmlGpuInstanceGetInfo(self, mig):
        placement = Value(start=mig.start, size=mig.size)
        return Value(id=mig.gi, profileId=mig.profile_id, placement=placement)

    def nvmlDeviceGetAttributes_v2(self, mig):
        self._ask(mig, "Attributes")
        return Value(
            multiprocessorCount=mig.multiprocessors,
            sharedCopyEngineCount=1,
            sharedDecoderCount=0,
            sharedEncoderCount=0,
            sharedJpegCount=0,
            sharedOfaCount=0,
            memorySizeMB=mig.memory_mb,
        )

    def nvmlDeviceGetUtilizationRates(self, handle):
        self._ask(handle, "UtilizationRates")
        return Value(gpu=42, memory=17)

    def nvmlDeviceGetPowerUsage(self, handle):
        self._ask(handle, "PowerUsage")
        return 321_500

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return 55

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetSupportedEventTypes(self, handle):
        self._ask(handle, "SupportedEventTypes")
        return 0x1F

    def nvmlDeviceRegisterEvents(self, handle, types, events):
        self._ask(handle, "RegisterEvents")
        self.registered.append((handle.uuid, types))

    def nvmlEventSetCreate(self):
        self._ask(self, "EventSetCreate")
        return "events"

    def nvmlEventSetWait_v2(self, events, timeout_ms):
        self.waiting = True
        try:
            self._ask(self, "EventSetWait")
            return self._next(timeout_ms)
        finally:
            self.waiting = False

    def _next(self, timeout_ms):
        try:
            found = self.events.get(timeout=timeout_ms / 1000)
        except queue.Empty:
            raise NVMLError(10) from None
        if isinstance(found, int):
            raise NVMLError(found)
        return found

    def nvmlEventSetFree(self, events):
        assert not self.waiting, "an event set is freed while a thread waits on it"
        self.registered.clear()

    def happen(self, board, data, kind=8, gi=0xFFFFFFFF, ci=0xFFFFFFFF):
        """An event: by default an XID of a whole GPU."""
        self.events.put(
            Value(
                device=board,
                eventType=kind,
                eventData=data,
                gpuInstanceId=gi,
                computeInstanceId=ci,
            )
        )


def two_boards():
    return (
        Board("GPU-aaaa", 0, "00000000:1B:00.0"),
        Board("GPU-bbbb", 1, "00000000:5D:00.0", used=40 << 30),
    )


def mig_board():
    return Board(
        "GPU-cccc",
        0,
        name="NVIDIA A100-SXM4-40GB",
        mig_mode=1,
        migs=[
            Mig("MIG-1", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", 7, start=6),
            Mig("MIG-2", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", 2, 0, 9, 0, 4, 20096, 42),
        ],
    )
