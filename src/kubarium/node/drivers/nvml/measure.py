"""What this machine's GPUs measure, asked of NVML when somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from kubarium.node.drivers.health import UNHEALTHY, XID, Health, health_of
from kubarium.node.drivers.nvml.discovery import Gpu, Inventory
from kubarium.node.drivers.nvml.library import (
    CLOCK_MEMORY,
    CLOCK_SM,
    GPU_IS_LOST,
    SENSOR_GPU,
    Nvml,
    code_of,
)
from kubarium.node.drivers.readings import Held, Reading

T = TypeVar("T")


class Lost(Exception):
    """A GPU has fallen off the bus."""


def read_gpus(
    nvml: Nvml,
    inventory: Inventory,
    gpus: Sequence[Gpu],
    place: tuple[str, str],
    held: Held,
    health: Mapping[str, Health],
) -> list[Reading]:
    """Readings of some GPUs of the machine; ``place`` is the driver's name and the pool. In MIG
    mode the whole GPU is measured (power and temperature are its own) with all its holders."""
    driver, pool = place
    found = []
    for gpu in gpus:
        own = health_of(gpu.name, health)
        names = [gpu.name, *(gpu.instance_name(instance) for instance in gpu.instances)]
        reading = Reading(
            driver,
            pool,
            gpu.name,
            gpu.minor,
            gpu.uuid,
            gpu.product,
            own.state,
            gpu.bus_id,
            inventory.driver_version,
            memory_total=gpu.memory_bytes,
            xid=int(own.value) if own.cause == XID else 0,
            holders=tuple(h for name in names for h in held.get((driver, name), ())),
        )
        try:
            found.append(_measured(nvml, gpu, reading))
        except Lost:
            found.append(_silent(reading))
    return found


def _silent(reading: Reading) -> Reading:
    return Reading(
        reading.driver,
        reading.pool,
        reading.device,
        reading.number,
        reading.uuid,
        reading.model,
        UNHEALTHY,
        reading.pci_bus_id,
        reading.driver_version,
        xid=reading.xid,
        holders=reading.holders,
    )


def _measured(nvml: Nvml, gpu: Gpu, reading: Reading) -> Reading:
    def ask(question: Callable[[], T]) -> T | None:
        try:
            return question()
        except nvml.NVMLError as error:
            if code_of(error) == GPU_IS_LOST:
                raise Lost from None
            return None

    handle = gpu.handle
    rates = ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    memory = ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    power_mw = ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    return Reading(
        reading.driver,
        reading.pool,
        reading.device,
        reading.number,
        reading.uuid,
        reading.model,
        reading.state,
        reading.pci_bus_id,
        reading.driver_version,
        utilization=None if rates is None else float(rates.gpu),
        memory_utilization=None if rates is None else float(rates.memory),
        memory_used=None if memory is None else int(memory.used),
        memory_total=reading.memory_total if memory is None else int(memory.total),
        power_w=None if power_mw is None else power_mw / 1000,
        temperature_c=ask(lambda: nvml.nvmlDeviceGetTemperature(handle, SENSOR_GPU)),
        sm_clock_mhz=ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, CLOCK_SM)),
        memory_clock_mhz=ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, CLOCK_MEMORY)),
        xid=reading.xid,
        holders=reading.holders,
    )
