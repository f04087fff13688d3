"""What devices measure: utilisation, memory, power and temperature of a node's GPUs.

Simulated values follow from the device, the pods that hold it and the time alone: an idle GPU rests
at its idle power, a held one works at the level of its pods' ``kubarium.dev/gpu-utilization``
annotation (percent; else its own level between 70 and 97 %), with a slow wave on top. Who holds a
share of a device uses no more of its memory and compute than that. Power and temperature follow the
work within the product's limits. The same moment always reads the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kubarium.api.resource import Document
from kubarium.base.quantity import parse_quantity
from kubarium.node.config import DeviceConfig
from kubarium.node.drivers.health import HEALTHY, UNHEALTHY, XID, Health, health_of
from kubarium.node.drivers.nvidia import MEMORY_SLICES, Physics, model_of
from kubarium.node.drivers.profiles import EXAMPLE, NVIDIA
from kubarium.node.drivers.smi import mig_uuid

UTILIZATION = "kubarium.dev/gpu-utilization"

# The example driver's GPU is nobody's product; it draws what a large one does.
_EXAMPLE_PHYSICS = Physics(idle_w=60, power_w=400, idle_c=31, warm_c=68)
_WAVE_PERIOD_S = 300.0
_WAVE_PERCENT = 3.0
# What a driver keeps of the memory of an idle GPU.
_IDLE_MEMORY = 0.006


@dataclass(frozen=True, slots=True)
class Holder:
    """A container that holds a device, and how hard it works it (percent; None if not said).
    ``device`` names it where what is read is the GPU that it is a part of. ``consumed`` are the
    shares of its capacity, by name, that the claim brings."""

    namespace: str
    pod: str
    container: str
    claim: str = ""
    level: float | None = None
    device: str = ""
    consumed: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """One device at one moment. Memory is in bytes; ``None`` is what the device does not tell.
    ``parent`` is the uuid of the GPU that it is a part of, "" for a whole one; ``memory_taken`` and
    ``work_taken`` are what its holders may use of it, as fractions."""

    driver: str
    pool: str
    device: str
    number: int
    uuid: str
    model: str
    state: str = HEALTHY
    pci_bus_id: str = ""
    driver_version: str = ""
    mig_profile: str = ""
    mig_instance: str = ""
    utilization: float | None = None
    memory_utilization: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    xid: int = 0
    holders: tuple[Holder, ...] = ()
    parent: str = ""
    memory_taken: float = 1.0
    work_taken: float = 1.0


# The containers of each device, by (driver, device).
Held = Mapping[tuple[str, str], Sequence[Holder]]


def level_of(pod: Document) -> float | None:
    """The utilisation that a pod asks to be simulated with; None if it says none that is one."""
    text = (pod["metadata"].get("annotations") or {}).get(UTILIZATION, "")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 100 else None


def simulated(
    config: DeviceConfig,
    driver: str,
    pool: str,
    devices: Iterable[Document],
    held: Held,
    health: Mapping[str, Health],
    now: float,
) -> list[Reading]:
    """Readings of a node's GPUs, and of those parts of them that somebody holds."""
    if config.profile not in (NVIDIA, EXAMPLE):
        return []
    physics = model_of(config).physics if config.profile == NVIDIA else _EXAMPLE_PHYSICS
    wholes: dict[int, Reading] = {}
    parts: dict[int, list[Reading]] = {}
    for device in devices:
        reading = _described(driver, pool, device, held, health)
        if "-" not in device["name"].partition("-")[2] or device["name"].endswith("-full"):
            wholes[reading.number] = reading
        elif reading.holders:
            parts.setdefault(reading.number, []).append(reading)
    found = []
    for number, whole in wholes.items():
        # Power and temperature are the whole GPU's: its parts have none of their own.
        of_parts = [
            replace(_at_work(part, physics, now), power_w=None, temperature_c=None)
            for part in parts.get(number, ())
        ]
        found += [_with_parts(whole, of_parts, physics, now), *of_parts]
    return found


def _described(
    driver: str, pool: str, device: Document, held: Held, health: Mapping[str, Health]
) -> Reading:
    attributes = device.get("attributes") or {}
    name = device["name"]
    number = name.split("-")[1]
    own = health_of(name, health)
    holders = tuple(held.get((driver, name), ()))
    return Reading(
        driver,
        pool,
        name,
        int(number) if number.isdigit() else 0,
        _text(attributes, "uuid") or mig_uuid(pool, driver, name),
        _text(attributes, "productName") or _text(attributes, "model"),
        own.state,
        _text(attributes, "resource.kubernetes.io/pciBusID"),
        str((attributes.get("driverVersion") or {}).get("version", "")),
        _text(attributes, "profile"),
        _gpu_instance(name, device["capacity"]),
        memory_total=int(parse_quantity(device["capacity"]["memory"]["value"])),
        xid=int(own.value) if own.cause == XID else 0,
        holders=holders,
        parent=_text(attributes, "parentUUID"),
        memory_taken=_taken(holders, device["capacity"], "memory"),
        work_taken=_taken(holders, device["capacity"], "compute"),
    )


def _taken(holders: Iterable[Holder], capacity: Mapping[str, Any], name: str) -> float:
    """The fraction of a capacity that the holders' claims have, each once; all of it where one
    holds the device as a whole."""
    shares = {(holder.namespace, holder.claim): holder.consumed for holder in holders}
    if name not in capacity or not all(shares.values()):
        return 1.0
    amounts = [share.get(name) for each in shares.values() for share in each]
    if not amounts or None in amounts:
        return 1.0
    whole = parse_quantity(capacity[name]["value"])
    return min(float(sum(map(parse_quantity, amounts)) / whole), 1.0) if whole else 1.0


def _gpu_instance(name: str, capacity: Mapping[str, Any]) -> str:
    """The number that the driver gives a GPU instance, which follows from its place: they count
    through the halves of the memory slices, their quarters and eighths, each from the second half
    on (as ``nvidia-smi mig -lgi`` prints them). "" for what is none.

    >>> _gpu_instance("gpu-0-mig-3g40gb-9-4", {f"memorySlice{n}": {} for n in range(4, 8)})
    '1'
    """
    if "-mig-" not in name:
        return ""
    start = int(name.rpartition("-")[2])
    size = sum(amount.startswith("memorySlice") for amount in capacity)
    before = MEMORY_SLICES // size - 1
    return str(before + (start + MEMORY_SLICES // 2) % MEMORY_SLICES // size if before else 0)


def _text(attributes: Mapping[str, Any], name: str) -> str:
    return str((attributes.get(name) or {}).get("string", ""))


def _fraction(uuid: str, what: str) -> float:
    """A number in [0, 1) that belongs to a device."""
    digest = hashlib.sha256(f"{what}/{uuid}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _level(reading: Reading, now: float) -> float:
    """Percent of work; a lost GPU does none."""
    if not reading.holders or (reading.state == UNHEALTHY and not reading.xid):
        return 0.0
    said = [holder.level for holder in reading.holders if holder.level is not None]
    most = 100 * reading.work_taken
    own = sum(said) if said else (70 + 27 * _fraction(reading.uuid, "level")) * reading.work_taken
    if own <= 0:
        return 0.0
    phase = 2 * math.pi * (now / _WAVE_PERIOD_S + _fraction(reading.uuid, "phase"))
    return min(max(own + _WAVE_PERCENT * math.sin(phase), 0.0), most)


def _at_work(reading: Reading, physics: Physics, now: float) -> Reading:
    assert reading.memory_total is not None
    level = _level(reading, now)
    power_w, temperature_c = _heat(level / 100, reading.uuid, physics)
    share = _IDLE_MEMORY
    if reading.holders:
        share = (0.55 + 0.35 * _fraction(reading.uuid, "memory")) * reading.memory_taken
    return replace(
        reading,
        utilization=round(level),
        memory_utilization=round(level * 0.6),
        memory_used=int(reading.memory_total * share),
        power_w=power_w,
        temperature_c=temperature_c,
    )


def _heat(work: float, uuid: str, physics: Physics) -> tuple[float, float]:
    """Power and temperature at a share of full work; a product's pieces differ by a few percent."""
    place = _fraction(uuid, "place")
    power = physics.idle_w + (physics.power_w - physics.idle_w) * 0.95 * work
    power *= 0.97 + 0.06 * place
    warmth = physics.idle_c + (physics.warm_c - physics.idle_c) * work + 4 * (place - 0.5)
    return round(min(power, physics.power_w), 1), round(warmth)


def _with_parts(whole: Reading, parts: Sequence[Reading], physics: Physics, now: float) -> Reading:
    """A GPU works as hard as its parts do, each by its share of the memory."""
    if not parts:
        return _at_work(whole, physics, now)
    assert whole.memory_total is not None
    weights = [(part.memory_total or 0) / whole.memory_total for part in parts]
    work = sum(w * (p.utilization or 0) for w, p in zip(weights, parts, strict=True))
    power_w, temperature_c = _heat(work / 100, whole.uuid, physics)
    return replace(
        whole,
        utilization=round(work),
        memory_utilization=round(work * 0.6),
        memory_used=min(sum(part.memory_used or 0 for part in parts), whole.memory_total),
        power_w=power_w,
        temperature_c=temperature_c,
    )
