"""NVIDIA GPUs as the vendor's DRA driver publishes them, and the network cards beside them.

Attribute, device, counter and capacity names follow NVIDIA/k8s-dra-driver-gpu
(``deviceinfo.go``, ``mig.go``, ``partitions.go``); sizes are those that ``nvidia-smi mig -lgip``
and ``-lgipp`` print for each product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
class GpuModel:
    """One product, as ``nvidia-smi`` names it. ``memory`` is a quantity."""

    product: str
    architecture: str
    compute_capability: str
    memory: str
    engines: Engines
    profiles: tuple[MigProfile, ...]
    addressing: str = "None"


_AMPERE = (Engines(14, 1, 0), Engines(14, 1, 1), Engines(28, 2, 1), Engines(42, 3, 2))
_AMPERE_LARGE = (Engines(56, 4, 2), Engines(98, 7, 5, 0, 1, 1))
_HOPPER = (
    Engines(16, 1, 1, 0, 1),
    Engines(26, 1, 1, 0, 1),
    Engines(32, 2, 2, 0, 2),
    Engines(60, 3, 3, 0, 3),
)
_HOPPER_LARGE = (Engines(64, 4, 4, 0, 4), Engines(132, 8, 7, 0, 7, 1))
_BLACKWELL = (
    Engines(18, 1, 1, 0, 1),
    Engines(30, 1, 1, 0, 1),
    Engines(36, 2, 2, 0, 2),
    Engines(70, 3, 3, 0, 3),
)
_BLACKWELL_LARGE = (Engines(72, 4, 4, 0, 4), Engines(148, 8, 7, 0, 7, 1))


def _profiles(
    sizes: tuple[tuple[str, int], ...], engines: tuple[Engines, ...]
) -> tuple[MigProfile, ...]:
    """The six sizes that all these products share, with names and memory of one product."""
    shape = (
        (19, 1, (0, 1, 2, 3, 4, 5, 6)),
        (15, 2, (0, 2, 4, 6)),
        (14, 2, (0, 2, 4)),
        (9, 4, (0, 4)),
        (5, 4, (0,)),
        (0, 8, (0,)),
    )
    return tuple(
        MigProfile(name, id_, memory, engine, size, places)
        for (name, memory), engine, (id_, size, places) in zip(sizes, engines, shape, strict=True)
    )


def _sizes(*sizes: tuple[str, int]) -> tuple[tuple[str, int], ...]:
    return sizes


MODELS = {
    "A100": GpuModel(
        "NVIDIA A100-SXM4-80GB",
        "Ampere",
        "8.0.0",
        "80Gi",
        Engines(108, 8, 5, 0, 1, 1),
        _profiles(
            _sizes(
                ("1g.10gb", 9728),
                ("1g.20gb", 19968),
                ("2g.20gb", 19968),
                ("3g.40gb", 40448),
                ("4g.40gb", 40448),
                ("7g.80gb", 81152),
            ),
            (*_AMPERE, *_AMPERE_LARGE),
        ),
    ),
    "H100": GpuModel(
        "NVIDIA H100 80GB HBM3",
        "Hopper",
        "9.0.0",
        "80Gi",
        Engines(132, 8, 7, 0, 7, 1),
        _profiles(
            _sizes(
                ("1g.10gb", 9984),
                ("1g.20gb", 20096),
                ("2g.20gb", 20096),
                ("3g.40gb", 40448),
                ("4g.40gb", 40448),
                ("7g.80gb", 81152),
            ),
            (*_HOPPER, *_HOPPER_LARGE),
        ),
    ),
    "H200": GpuModel(
        "NVIDIA H200",
        "Hopper",
        "9.0.0",
        "141Gi",
        Engines(132, 8, 7, 0, 7, 1),
        _profiles(
            _sizes(
                ("1g.18gb", 16384),
                ("1g.35gb", 33280),
                ("2g.35gb", 33280),
                ("3g.71gb", 71168),
                ("4g.71gb", 71168),
                ("7g.141gb", 143616),
            ),
            (*_HOPPER, *_HOPPER_LARGE),
        ),
    ),
    "B200": GpuModel(
        "NVIDIA B200",
        "Blackwell",
        "10.0.0",
        "180Gi",
        Engines(148, 8, 7, 0, 7, 1),
        _profiles(
            _sizes(
                ("1g.23gb", 21504),
                ("1g.45gb", 44032),
                ("2g.45gb", 44032),
                ("3g.90gb", 89088),
                ("4g.90gb", 89088),
                ("7g.180gb", 179200),
            ),
            (*_BLACKWELL, *_BLACKWELL_LARGE),
        ),
    ),
    "GB200": GpuModel(
        "NVIDIA GB200",
        "Blackwell",
        "10.0.0",
        "186Gi",
        Engines(152, 8, 7, 0, 7, 1),
        _profiles(
            _sizes(
                ("1g.23gb", 22528),
                ("1g.47gb", 46080),
                ("2g.47gb", 46080),
                ("3g.93gb", 93184),
                ("4g.93gb", 93184),
                ("7g.186gb", 188416),
            ),
            (*_BLACKWELL, *_BLACKWELL_LARGE),
        ),
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
    """One whole GPU, and with ``mig`` every instance that could be cut out of it."""
    model = model_of(config)
    parent = f"GPU-{stable_uuid(node, driver, index)}"
    whole: Document = {
        "name": f"gpu-{index}",
        "attributes": {
            "type": {"string": "gpu"},
            "uuid": {"string": parent},
            **_product(model),
            "addressingMode": {"string": model.addressing},
            **_place(index),
            **attributes(config, driver, node, index),
        },
        "capacity": {"memory": {"value": model.memory}, **capacity(config)},
    }
    if not config.mig:
        return [whole]
    whole["consumesCounters"] = [_consumes(index, _all_of(model))]
    instances = [
        _instance(model, profile, place, index, parent)
        for profile in model.profiles
        for place in profile.places
    ]
    return [whole, *instances]


def _product(model: GpuModel) -> Document:
    return {
        "productName": {"string": model.product},
        "brand": {"string": "Nvidia"},
        "architecture": {"string": model.architecture},
        "cudaComputeCapability": {"version": model.compute_capability},
        **{key: {"version": text} for key, text in _VERSIONS.items()},
    }


def _place(index: int) -> Document:
    return {
        "resource.kubernetes.io/pciBusID": pci_bus_id(index, 0x1B),
        "resource.kubernetes.io/pcieRoot": pcie_root(index),
    }


def _instance(
    model: GpuModel, profile: MigProfile, place: int, index: int, parent: str
) -> Document:
    slices = range(place, place + profile.size)
    amounts = {"memory": {"value": f"{profile.memory_mi}Mi"}}
    amounts |= {name: {"value": str(count)} for name, count in profile.engines.items()}
    amounts |= {f"memorySlice{number}": {"value": "1"} for number in slices}
    used = _counters(profile.engines, f"{profile.memory_mi}Mi", slices)
    return {
        "name": f"gpu-{index}-mig-{profile.name.replace('.', '')}-{profile.id}-{place}",
        "attributes": {
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


def _all_of(model: GpuModel) -> Document:
    return _counters(model.engines, model.memory, range(MEMORY_SLICES))


def _consumes(index: int, counters: Document) -> Document:
    return {"counterSet": f"gpu-{index}-counter-set", "counters": counters}


def gpu_counters(config: DeviceConfig, count: int) -> list[Document]:
    """One counter set for each GPU that can be cut."""
    if not config.mig:
        return []
    counters = _all_of(model_of(config))
    return [{"name": f"gpu-{index}-counter-set", "counters": counters} for index in range(count)]


def nics(config: DeviceConfig, driver: str, node: str, index: int) -> list[Document]:
    """A network card, by DRANET's attribute names; the PCIe root is its GPU neighbours'."""
    device: Document = {
        "name": f"nic-{index}",
        "attributes": {
            f"{driver}/ifName": {"string": f"eth{index + 1}"},
            f"{driver}/type": {"string": "device"},
            f"{driver}/state": {"string": "up"},
            f"{driver}/mtu": {"int": 9000},
            f"{driver}/numaNode": {"int": index // 4},
            f"{driver}/rdma": {"bool": True},
            f"{driver}/rdmaDevice": {"string": f"mlx5_{index}"},
            f"{driver}/pciVendor": {"string": "Mellanox Technologies"},
            f"{driver}/pciDevice": {"string": config.model or "MT2910 Family [ConnectX-7]"},
            "resource.kubernetes.io/pciBusID": pci_bus_id(index, 0x18),
            "resource.kubernetes.io/pcieRoot": pcie_root(index),
            **attributes(config, driver, node, index),
        },
    }
    if config.capacity:
        device["capacity"] = capacity(config)
    return [device]
