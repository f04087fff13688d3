"""NVIDIA GPUs as the vendor's DRA driver publishes them, and the network cards beside them.

Attribute, device, counter and capacity names follow NVIDIA/k8s-dra-driver-gpu
(``deviceinfo.go``, ``mig.go``, ``partitions.go``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from kubarium.api.resource import Document
from kubarium.base.errors import ConfigError
from kubarium.node.config import DeviceConfig
from kubarium.node.drivers.typed import (
    attributes,
    capacity,
    pci_bus_id,
    pcie_root,
    stable_uuid,
)

# A GPU's memory has eight slices, on which instances are placed.
MEMORY_SLICES = 8
_DEVICES_PER_NUMA_NODE = 4
# The vendor's part of a card's hardware address.
_MELLANOX = "94:6d:ae"
_VERSIONS = {"driverVersion": "580.95.5", "cudaDriverVersion": "13.0.0"}


@dataclass(frozen=True, slots=True)
class Engines:
    """What an instance (or a whole GPU) has besides memory."""

    multiprocessors: int
    copy: int
    decoders: int
    encoders: int = 0
    jpeg: int = 0
    ofa: int = 0

    def items(self) -> Iterator[tuple[str, int]]:
        """By the names of capacities."""
        yield "multiprocessors", self.multiprocessors
        yield "copyEngines", self.copy
        yield "decoders", self.decoders
        yield "encoders", self.encoders
        yield "jpegEngines", self.jpeg
        yield "ofaEngines", self.ofa


_ENGINES = tuple(name for name, _ in Engines(0, 0, 0).items())


@dataclass(frozen=True, slots=True)
class MigProfile:
    """One size of instance: profile id, memory in Mi, engines, slices taken, where it may begin."""

    name: str
    id: int
    memory_mi: int
    engines: Engines
    size: int
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Physics:
    """Power in watts and temperature in degrees Celsius, idle and under full load."""

    idle_w: float
    power_w: float
    idle_c: float
    warm_c: float


@dataclass(frozen=True, slots=True)
class GpuModel:
    """One product, as ``nvidia-smi`` names it. ``memory`` is a quantity: what NVML tells, which is
    less than what the product is sold as (an H100 of 80 GB does not have 80Gi)."""

    product: str
    architecture: str
    compute_capability: str
    memory: str
    profiles: tuple[MigProfile, ...]
    physics: Physics
    addressing: str = "None"


# SMs, copy engines, decoders, encoders, JPEG and OFA engines of the six sizes, as ``nvidia-smi mig
# -lgip`` prints them for A100, H100 SXM, H200, and for B200 and GB200 up to 2g. For larger
# Blackwell sizes the copy engines are those of NVIDIA's MIG user guide (which shows fewer decoders
# than the driver reports for 2g), SMs and decoders the slices' share.
_AMPERE = (
    Engines(14, 1, 0),
    Engines(14, 1, 1),
    Engines(28, 2, 1),
    Engines(42, 3, 2),
    Engines(56, 4, 2),
    Engines(98, 7, 5, 0, 1, 1),
)
_HOPPER = (
    Engines(16, 1, 1, 0, 1),
    Engines(26, 1, 1, 0, 1),
    Engines(32, 2, 2, 0, 2),
    Engines(60, 3, 3, 0, 3),
    Engines(64, 4, 4, 0, 4),
    Engines(132, 8, 7, 0, 7, 1),
)
_BLACKWELL = (
    Engines(18, 2, 1, 0, 1),
    Engines(30, 2, 1, 0, 1),
    Engines(36, 4, 2, 0, 2),
    Engines(70, 6, 3, 0, 3),
    Engines(72, 8, 4, 0, 4),
    Engines(148, 16, 7, 0, 7, 1),
)
_GRACE_BLACKWELL = (
    Engines(18, 2, 1, 0, 1),
    Engines(32, 2, 1, 0, 1),
    Engines(38, 4, 2, 0, 2),
    Engines(74, 6, 3, 0, 3),
    Engines(76, 8, 4, 0, 4),
    Engines(152, 16, 7, 0, 7, 1),
)

# Profile ids, memory slices and where an instance may begin: the same for all these products.
_SHAPE = (
    (19, 1, (0, 1, 2, 3, 4, 5, 6)),
    (15, 2, (0, 2, 4, 6)),
    (14, 2, (0, 2, 4)),
    (9, 4, (0, 4)),
    (5, 4, (0,)),
    (0, 8, (0,)),
)


_MEDIA_ID = 20


def _profiles(engines: tuple[Engines, ...], **memory_mi: int) -> tuple[MigProfile, ...]:
    """The six sizes; ``g1_10`` is the profile 1g.10gb. The smallest there is with media extensions
    too: all engines that an instance may have, one OFA engine among them, so that it is the only
    one of its GPU."""
    plain = [
        MigProfile(f"{name[1:].replace('_', 'g.')}gb", id_, memory, engine, size, places)
        for (name, memory), engine, (id_, size, places) in zip(
            memory_mi.items(), engines, _SHAPE, strict=True
        )
    ]
    small = plain[0]
    media = replace(small.engines, decoders=1, jpeg=1, ofa=1)
    return (replace(small, name=f"{small.name}+me", id=_MEDIA_ID, engines=media), *plain)


MODELS = {
    "A100-40GB": GpuModel(
        "NVIDIA A100-SXM4-40GB",
        "Ampere",
        "8.0.0",
        "40Gi",
        _profiles(
            _AMPERE, g1_5=4864, g1_10=9856, g2_10=9984, g3_20=20096, g4_20=20096, g7_40=40192
        ),
        Physics(idle_w=50, power_w=400, idle_c=31, warm_c=66),
    ),
    "A100": GpuModel(
        "NVIDIA A100-SXM4-80GB",
        "Ampere",
        "8.0.0",
        "80Gi",
        _profiles(
            _AMPERE, g1_10=9728, g1_20=19968, g2_20=19968, g3_40=40192, g4_40=40192, g7_80=80896
        ),
        Physics(idle_w=60, power_w=400, idle_c=31, warm_c=68),
    ),
    "H100": GpuModel(
        "NVIDIA H100 80GB HBM3",
        "Hopper",
        "9.0.0",
        "81559Mi",
        _profiles(
            _HOPPER, g1_10=9984, g1_20=20096, g2_20=20096, g3_40=40448, g4_40=40448, g7_80=81152
        ),
        Physics(idle_w=70, power_w=700, idle_c=32, warm_c=72),
    ),
    "H200": GpuModel(
        "NVIDIA H200",
        "Hopper",
        "9.0.0",
        "143771Mi",
        _profiles(
            _HOPPER, g1_18=16384, g1_35=33024, g2_35=33024, g3_71=71168, g4_71=71168, g7_141=143104
        ),
        Physics(idle_w=75, power_w=700, idle_c=32, warm_c=72),
    ),
    "B200": GpuModel(
        "NVIDIA B200",
        "Blackwell",
        "10.0.0",
        "183359Mi",
        _profiles(
            _BLACKWELL,
            g1_23=20992,
            g1_45=45312,
            g2_45=45312,
            g3_90=91136,
            g4_90=91136,
            g7_180=182784,
        ),
        Physics(idle_w=140, power_w=1000, idle_c=33, warm_c=74),
    ),
    "GB200": GpuModel(
        "NVIDIA GB200",
        "Blackwell",
        "10.0.0",
        "189471Mi",
        _profiles(
            _GRACE_BLACKWELL,
            g1_23=22528,
            g1_47=46592,
            g2_47=46592,
            g3_93=93696,
            g4_93=93696,
            g7_186=188416,
        ),
        Physics(idle_w=145, power_w=1200, idle_c=34, warm_c=70),
        addressing="ATS",
    ),
}


def model_of(config: DeviceConfig) -> GpuModel:
    """The product that a file names (H100 if none); ConfigError lists those that there are."""
    name = (config.model or "H100").upper()
    if name not in MODELS:
        raise ConfigError(
            f"devices: model: unknown model {config.model!r}; known: {', '.join(MODELS)}"
        )
    return MODELS[name]


def gpus(config: DeviceConfig, driver: str, node: str, index: int) -> list[Document]:
    """One whole GPU, and with ``mig`` every instance that could be cut out of it, by name: the
    order in which allocators look at them. The whole then has the capacities of the largest
    instance, which is what is left of it in MIG mode."""
    model = model_of(config)
    parent = f"GPU-{stable_uuid(node, driver, index)}"
    whole: Document = {
        "name": f"gpu-{index}",
        "attributes": {
            "type": {"string": "gpu"},
            "uuid": {"string": parent},
            **_product(model),
            **_place(index),
            **attributes(config, driver, node, index),
        },
        "capacity": {"memory": {"value": model.memory}, **capacity(config)},
    }
    devices = [whole]
    if config.mig:
        whole["capacity"] = {**_most_of(model), **capacity(config)}
        whole["consumesCounters"] = [_consumes(index, _all_of(model))]
        own = attributes(config, driver, node, index)
        parent = own.get("uuid", {}).get("string", parent)
        instances = [
            _instance(model, profile, place, index, parent, own)
            for profile in model.profiles
            for place in profile.places
        ]
        devices += sorted(instances, key=lambda device: str(device["name"]))
    return [_shared(device) for device in devices] if config.allow_multiple else devices


def _shared(device: Document) -> Document:
    """A device that claims share by memory: ``consumable_shares.go`` of the driver, option
    ``memory``. Who does not say how much takes it all."""
    memory = device["capacity"]["memory"]["value"]
    span = {"min": "1Mi", "max": memory, "step": "1Mi"}
    policy = {"default": memory, "validRange": span}
    return {
        **device,
        "allowMultipleAllocations": True,
        "capacity": {
            **device["capacity"],
            "memory": {"value": memory, "requestPolicy": policy},
        },
    }


def _product(model: GpuModel) -> Document:
    return {
        "productName": {"string": model.product},
        "brand": {"string": "Nvidia"},
        "architecture": {"string": model.architecture},
        "cudaComputeCapability": {"version": model.compute_capability},
        "addressingMode": {"string": model.addressing},
        **{key: {"version": text} for key, text in _VERSIONS.items()},
    }


def _place(index: int) -> Document:
    return {
        "resource.kubernetes.io/pciBusID": pci_bus_id(index, 0x1B),
        "resource.kubernetes.io/pcieRoot": pcie_root(index),
        "resource.kubernetes.io/numaNode": {"int": index // _DEVICES_PER_NUMA_NODE},
    }


def _instance(
    model: GpuModel, profile: MigProfile, place: int, index: int, parent: str, own: Document
) -> Document:
    """``own``: attributes of the file's, which an instance has besides what it is."""
    slices = range(place, place + profile.size)
    amounts = {"memory": {"value": f"{profile.memory_mi}Mi"}}
    amounts |= {name: {"value": str(count)} for name, count in profile.engines.items()}
    amounts |= {f"memorySlice{number}": {"value": "1"} for number in slices}
    used = _counters(profile.engines, f"{profile.memory_mi}Mi", slices)
    name = profile.name.replace(".", "").replace("+", "-")
    return {
        "name": f"gpu-{index}-mig-{name}-{profile.id}-{place}",
        "attributes": {
            **{key: value for key, value in own.items() if key != "uuid"},
            "type": {"string": "mig"},
            "parentUUID": {"string": parent},
            "profile": {"string": profile.name},
            **_product(model),
            **_place(index),
        },
        "capacity": amounts,
        "consumesCounters": [_consumes(index, used)],
    }


def _kebab(name: str) -> str:
    """``copyEngines`` is the counter ``copy-engines``."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name)


def _counters(engines: Engines, memory: str, slices: range) -> Document:
    counters = {_kebab(name): {"value": str(count)} for name, count in engines.items()}
    counters["memory"] = {"value": memory}
    return counters | {f"memory-slice-{number}": {"value": "1"} for number in slices}


@lru_cache(maxsize=16)
def _most_of(model: GpuModel) -> Document:
    """The most that any instance may have of each capacity."""
    most = {name: max(dict(p.engines.items())[name] for p in model.profiles) for name in _ENGINES}
    memory = f"{max(profile.memory_mi for profile in model.profiles)}Mi"
    return {name: {"value": str(count)} for name, count in most.items()} | {
        "memory": {"value": memory}
    }


@lru_cache(maxsize=16)
def _all_of(model: GpuModel) -> Document:
    """What a GPU has to give: the most of each that any instance may have, as the driver says."""
    counters = {_kebab(name): amount for name, amount in _most_of(model).items()}
    return counters | {f"memory-slice-{n}": {"value": "1"} for n in range(MEMORY_SLICES)}


def _consumes(index: int, counters: Document) -> Document:
    return {"counterSet": f"gpu-{index}-counter-set", "counters": counters}


def gpu_counters(config: DeviceConfig, count: int) -> list[Document]:
    """One counter set for each GPU that can be cut."""
    if not config.mig:
        return []
    counters = _all_of(model_of(config))
    return [{"name": f"gpu-{index}-counter-set", "counters": counters} for index in range(count)]


def nics(config: DeviceConfig, driver: str, node: str, index: int) -> list[Document]:
    """A network card, by DRANET's attribute names (``pkg/apis/attributes.go``); the PCIe root is
    its GPU neighbours'. A selector that asks for an attribute which is not there matches nothing,
    so a card has all that a physical one always has."""
    serial = bytes.fromhex(stable_uuid(node, driver, index).replace("-", ""))[:3].hex(":")
    device: Document = {
        "name": f"nic-{index}",
        "attributes": {
            f"{driver}/ifName": {"string": f"eth{index + 1}"},
            f"{driver}/mac": {"string": f"{_MELLANOX}:{serial}"},
            f"{driver}/encapsulation": {"string": "ether"},
            f"{driver}/alias": {"string": ""},
            f"{driver}/virtual": {"bool": False},
            f"{driver}/ebpf": {"bool": False},
            f"{driver}/sriov": {"bool": False},
            f"{driver}/pciAddress": pci_bus_id(index, 0x18),
            f"{driver}/type": {"string": "device"},
            f"{driver}/state": {"string": "up"},
            f"{driver}/mtu": {"int": 9000},
            f"{driver}/numaNode": {"int": index // _DEVICES_PER_NUMA_NODE},
            f"{driver}/rdma": {"bool": True},
            f"{driver}/rdmaDevice": {"string": f"mlx5_{index}"},
            f"{driver}/pciVendor": {"string": "Mellanox Technologies"},
            f"{driver}/pciDevice": {"string": config.model or "MT2910 Family [ConnectX-7]"},
            "resource.kubernetes.io/pciBusID": pci_bus_id(index, 0x18),
            "resource.kubernetes.io/pcieRoot": pcie_root(index),
            "resource.kubernetes.io/numaNode": {"int": index // _DEVICES_PER_NUMA_NODE},
            **attributes(config, driver, node, index),
        },
    }
    if config.capacity:
        device["capacity"] = capacity(config)
    return [device]
