"""What this machine's GPUs measure, asked of NVML when somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from kubarium.node.drivers.health import UNHEALTHY, UNKNOWN, XID, Health, health_of
from kubarium.node.drivers.nvml.discovery import Gpu, Inventory, MigInstance
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
    mode the whole GPU is measured (power and temperature are its own) with all its holders, and
    the memory of each instance."""
    found = []
    for gpu in gpus:
        reading = _described(inventory, gpu, place, held, health)
        try:
            found.append(_measured(nvml, gpu, reading))
        except Lost:
            found.append(_silent(reading))
        found += [_instance(nvml, gpu, i, reading, held, health) for i in gpu.instances]
    return found


def unread(
    inventory: Inventory,
    gpus: Sequence[Gpu],
    place: tuple[str, str],
    held: Held,
    health: Mapping[str, Health],
) -> list[Reading]:
    """Readings of GPUs that NVML, which does not answer, says nothing of: nobody knows how they
    are, unless something worse is known."""
    found = [_described(inventory, gpu, place, held, health) for gpu in gpus]
    return [
        reading if reading.state == UNHEALTHY else replace(reading, state=UNKNOWN)
        for reading in found
    ]


def _described(
    inventory: Inventory,
    gpu: Gpu,
    place: tuple[str, str],
    held: Held,
    health: Mapping[str, Health],
) -> Reading:
    """What is known of a GPU without asking it."""
    driver, pool = place
    own = health_of(gpu.name, health)
    parts = [
        replace(holder, device=name)
        for name in gpu.device_names
        for holder in held.get((driver, name), ())
    ]
    return Reading(
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
        holders=tuple(parts),
    )


def _instance(
    nvml: Nvml,
    gpu: Gpu,
    instance: MigInstance,
    whole: Reading,
    held: Held,
    health: Mapping[str, Health],
) -> Reading:
    """NVML tells the memory of an instance, not its work."""
    name = gpu.instance_name(instance)
    own = health_of(name, health)
    used: int | None = None
    total = instance.memory_bytes
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(instance.handle)
        used, total = int(memory.used), int(memory.total)
    except nvml.NVMLError:
        pass  # it is left out
    return replace(
        whole,
        device=name,
        uuid=instance.uuid,
        parent=gpu.uuid,
        state=own.state,
        xid=int(own.value) if own.cause == XID else 0,
        mig_profile=instance.profile,
        mig_instance=str(instance.gpu_instance),
        memory_used=used,
        memory_total=total,
        holders=tuple(held.get((whole.driver, name), ())),
    )


def _silent(reading: Reading) -> Reading:
    return replace(reading, state=UNHEALTHY, memory_total=None)


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
    return replace(
        reading,
        utilization=None if rates is None else float(rates.gpu),
        memory_utilization=None if rates is None else float(rates.memory),
        memory_used=None if memory is None else int(memory.used),
        memory_total=reading.memory_total if memory is None else int(memory.total),
        power_w=None if power_mw is None else power_mw / 1000,
        temperature_c=ask(lambda: nvml.nvmlDeviceGetTemperature(handle, SENSOR_GPU)),
        sm_clock_mhz=ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, CLOCK_SM)),
        memory_clock_mhz=ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, CLOCK_MEMORY)),
    )
