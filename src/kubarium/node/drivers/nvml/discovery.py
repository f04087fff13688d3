"""Which GPUs and MIG instances the machine has, and how the vendor's driver publishes them.

Names follow kubernetes-sigs/dra-driver-nvidia-gpu ``cmd/gpu-kubelet-plugin/deviceinfo.go`` and
``nvlib.go``. A GPU in MIG mode is published as its instances, as they are; none are made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kubarium.api.resource import Document
from kubarium.base.quantity import format_quantity
from kubarium.node.drivers.nvml.library import (
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    NOT_FOUND,
    Nvml,
    code_of,
)

T = TypeVar("T")

_MIB = 1024 * 1024
# nvml.h: nvmlBrandType_t and nvmlDeviceArchitecture_t, in the words of go-nvlib.
_BRANDS = {
    1: "Quadro", 2: "Tesla", 3: "NVS", 4: "Grid", 5: "GeForce", 6: "Titan", 7: "NvidiaVApps",
    8: "NvidiaVPC", 9: "NvidiaVCS", 10: "NvidiaVWS", 11: "NvidiaCloudGaming", 12: "QuadroRTX",
    13: "NvidiaRTX", 14: "Nvidia", 15: "GeForceRTX", 16: "TitanRTX",
}  # fmt: skip
_ARCHITECTURES = {
    2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere",
    8: "Ada Lovelace", 9: "Hopper", 10: "Blackwell", 13: "Rubin",
}  # fmt: skip
_ADDRESSING = {0: "None", 1: "HMM", 2: "ATS"}
_ROOT = re.compile(r"/(pci[0-9a-f]{4}:[0-9a-f]{2})/")
_NUMBERS = re.compile(r"([0-9]+)\.([0-9]+)(?:\.([0-9]+))?")
# "NVIDIA A100-SXM4-40GB MIG 1g.5gb" is how NVML calls an instance.
_PROFILE = re.compile(r"MIG (\S+)$")
# resource.k8s.io: DeviceAttributeMaxValueLength. NVML's names may be longer.
_MAX_VALUE_CHARS = 64


@dataclass(frozen=True, slots=True)
class MigInstance:
    """One MIG device: a compute instance of a GPU instance, which may have several of them.
    ``memory_bytes`` and ``engines`` are None and empty where NVML does not tell them."""

    uuid: str
    profile: str
    profile_id: int
    start: int
    size: int
    gpu_instance: int
    compute_instance: int
    memory_bytes: int | None
    engines: tuple[tuple[str, int], ...]
    handle: Any = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One physical GPU. ``handle`` is NVML's; None and "" are what NVML does not tell."""

    index: int
    minor: int
    uuid: str
    product: str
    brand: str
    architecture: str
    compute_capability: str
    memory_bytes: int | None
    bus_id: str
    pcie_root: str
    numa_node: int | None
    addressing: str | None
    mig_enabled: bool
    instances: tuple[MigInstance, ...]
    handle: Any = None

    @property
    def name(self) -> str:
        """The device's name in slices."""
        return f"gpu-{self.minor}"

    def instance_name(self, instance: MigInstance) -> str:
        """The name of one of its MIG devices in slices. Upstream knows one compute instance to a
        GPU instance; further ones have their number behind the name."""
        profile = re.sub(r"[^a-z0-9-]", "-", instance.profile.lower().replace(".", ""))
        more = f"-{instance.compute_instance}" if instance.compute_instance else ""
        return f"{self.name}-mig-{profile}-{instance.profile_id}-{instance.start}{more}"

    @property
    def device_names(self) -> list[str]:
        """The names of what it is published as: itself, or in MIG mode its instances."""
        return [self.instance_name(i) for i in self.instances] if self.mig_enabled else [self.name]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What one machine has. ``problems`` are GPUs that could not be read, in sentences; versions
    are "" where the driver does not tell them."""

    driver_version: str
    cuda_version: str
    gpus: tuple[Gpu, ...]
    problems: tuple[str, ...] = ()


def discover(nvml: Nvml, sysfs: Path = Path("/sys")) -> Inventory:
    """Ask NVML for everything. A GPU that does not answer is a problem, not the end; what a GPU or
    an old driver does not know is left out. NVMLError if not even their number can be had."""
    gpus: list[Gpu] = []
    problems: list[str] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            gpus.append(_gpu(nvml, index, sysfs, problems))
        except (nvml.NVMLError, ValueError) as error:
            problems.append(f"GPU {index}: {error}")
    driver = _optional(nvml, nvml.nvmlSystemGetDriverVersion)
    cuda = _optional(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
    return Inventory(
        _semver(driver) if driver is not None else "",
        f"{cuda // 1000}.{cuda % 1000 // 10}.0" if cuda is not None else "",
        tuple(gpus),
        tuple(problems),
    )


def _gpu(nvml: Nvml, index: int, sysfs: Path, problems: list[str]) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(function: Callable[[Any], T]) -> T | None:
        return _optional(nvml, lambda: function(handle))

    uuid = _text(nvml.nvmlDeviceGetUUID(handle))
    minor = ask(nvml.nvmlDeviceGetMinorNumber)
    name, brand = ask(nvml.nvmlDeviceGetName), ask(nvml.nvmlDeviceGetBrand)
    architecture = ask(nvml.nvmlDeviceGetArchitecture)
    capability = ask(nvml.nvmlDeviceGetCudaComputeCapability)
    memory, pci = ask(nvml.nvmlDeviceGetMemoryInfo), ask(nvml.nvmlDeviceGetPciInfo)
    bus_id = _bus_id(_text(pci.busId)) if pci is not None else ""
    root, numa = pci_place(bus_id, sysfs) if bus_id else ("", None)
    addressing = ask(nvml.nvmlDeviceGetAddressingMode)
    mode = ask(nvml.nvmlDeviceGetMigMode)
    enabled = mode is not None and mode[0] == 1
    return Gpu(
        index=index,
        minor=index if minor is None else minor,
        uuid=uuid,
        product=_text(name)[:_MAX_VALUE_CHARS] if name is not None else "",
        brand=_BRANDS.get(brand or 0, "Unknown"),
        architecture=_ARCHITECTURES.get(architecture or 0, "Unknown"),
        compute_capability="{}.{}.0".format(*capability) if capability is not None else "",
        memory_bytes=int(memory.total) if memory is not None else None,
        bus_id=bus_id,
        pcie_root=root,
        numa_node=numa,
        addressing=None if addressing is None else _ADDRESSING.get(addressing),
        mig_enabled=enabled,
        instances=tuple(_instances(nvml, handle, index, problems)) if enabled else (),
        handle=handle,
    )


def _instances(nvml: Nvml, gpu: Any, index: int, problems: list[str]) -> list[MigInstance]:
    found = []
    most = _optional(nvml, lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(gpu))
    if most is None:
        problems.append(f"GPU {index}: is in MIG mode, but does not tell its MIG devices")
    for number in range(most or 0):
        try:
            handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number)
        except nvml.NVMLError as error:
            # A place without an instance; the driver says the one or the other.
            if code_of(error) not in (NOT_FOUND, INVALID_ARGUMENT):
                problems.append(f"GPU {index}: MIG device {number}: {error}")
            continue
        try:
            found.append(_instance(nvml, gpu, handle))
        except (nvml.NVMLError, ValueError) as error:
            problems.append(f"GPU {index}: MIG device {number}: {error}")
    return found


def _instance(nvml: Nvml, gpu: Any, handle: Any) -> MigInstance:
    number = nvml.nvmlDeviceGetGpuInstanceId(handle)
    info = nvml.nvmlGpuInstanceGetInfo(nvml.nvmlDeviceGetGpuInstanceById(gpu, number))
    attributes = _optional(nvml, lambda: nvml.nvmlDeviceGetAttributes_v2(handle))
    name = _text(nvml.nvmlDeviceGetName(handle))
    profile = _PROFILE.search(name)
    if profile is None:
        raise ValueError(f"its name tells no profile: {name!r}")
    return MigInstance(
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        profile=profile[1],
        profile_id=int(info.profileId),
        start=int(info.placement.start),
        size=int(info.placement.size),
        gpu_instance=number,
        compute_instance=nvml.nvmlDeviceGetComputeInstanceId(handle),
        memory_bytes=int(attributes.memorySizeMB) * _MIB if attributes is not None else None,
        engines=_engines(attributes) if attributes is not None else (),
        handle=handle,
    )


def _engines(attributes: Any) -> tuple[tuple[str, int], ...]:
    return (
        ("multiprocessors", int(attributes.multiprocessorCount)),
        ("copyEngines", int(attributes.sharedCopyEngineCount)),
        ("decoders", int(attributes.sharedDecoderCount)),
        ("encoders", int(attributes.sharedEncoderCount)),
        ("jpegEngines", int(attributes.sharedJpegCount)),
        ("ofaEngines", int(attributes.sharedOfaCount)),
    )


def _optional(nvml: Nvml, ask: Callable[[], T]) -> T | None:
    """What not every GPU or driver answers; NVMLError where the GPU is gone."""
    try:
        return ask()
    except UnicodeDecodeError:  # the module's own, of a name that is none
        return None
    except nvml.NVMLError as error:
        if code_of(error) == GPU_IS_LOST:
            raise
        return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _semver(version: str) -> str:
    """Three numbers without leading zeros: 535.104.05 is 535.104.5, 550.54 is 550.54.0. "" for
    what does not begin like a version."""
    found = _NUMBERS.match(_text(version))
    return ".".join(str(int(part or 0)) for part in found.groups()) if found else ""


def _bus_id(text: str) -> str:
    """NVML's 00000000:1B:00.0 as the kernel's 0000:1b:00.0."""
    domain, _, rest = text.lower().partition(":")
    return f"{domain[-4:] if domain[:-4].strip('0') == '' else domain}:{rest}"


def pci_place(bus_id: str, sysfs: Path = Path("/sys")) -> tuple[str, int | None]:
    """The PCIe root complex and the NUMA node of a device; "" and None where the kernel is silent.

    ``/sys/bus/pci/devices/0000:1b:00.0`` leads to ``…/devices/pci0000:15/0000:15:01.0/…``.
    """
    entry = sysfs / "bus/pci/devices" / bus_id
    found = _ROOT.search(os.path.realpath(entry) + "/")
    try:
        numa = int((entry / "numa_node").read_text())
    except (OSError, ValueError):
        numa = -1
    return (found[1] if found else ""), (numa if numa >= 0 else None)


# As documents ------------------------------------------------------------------------------------


def device_documents(inventory: Inventory, gpu: Gpu) -> list[Document]:
    """The GPU, or in MIG mode its instances."""
    if gpu.mig_enabled:
        return [_instance_document(inventory, gpu, instance) for instance in gpu.instances]
    attributes = {
        "type": {"string": "gpu"},
        "uuid": {"string": gpu.uuid},
        **_product(inventory, gpu),
    }
    device: Document = {"name": gpu.name, "attributes": attributes}
    if gpu.memory_bytes is not None:
        device["capacity"] = {"memory": _amount(gpu.memory_bytes)}
    return [device]


def _instance_document(inventory: Inventory, gpu: Gpu, instance: MigInstance) -> Document:
    capacity = {name: {"value": str(count)} for name, count in instance.engines}
    if instance.memory_bytes is not None:
        capacity["memory"] = _amount(instance.memory_bytes)
    for number in range(instance.start, instance.start + instance.size):
        capacity[f"memorySlice{number}"] = {"value": "1"}
    attributes = {
        "type": {"string": "mig"},
        "uuid": {"string": instance.uuid},
        "parentUUID": {"string": gpu.uuid},
        "profile": {"string": instance.profile},
        **_product(inventory, gpu),
    }
    return {
        "name": gpu.instance_name(instance),
        "attributes": attributes,
        "capacity": capacity,
    }


def _product(inventory: Inventory, gpu: Gpu) -> Document:
    """What a GPU and its instances have in common."""
    texts = {
        "productName": gpu.product,
        "brand": gpu.brand,
        "architecture": gpu.architecture,
        "addressingMode": gpu.addressing,
        "resource.kubernetes.io/pciBusID": gpu.bus_id,
        "resource.kubernetes.io/pcieRoot": gpu.pcie_root,
    }
    versions = {
        "cudaComputeCapability": gpu.compute_capability,
        "driverVersion": inventory.driver_version,
        "cudaDriverVersion": inventory.cuda_version,
    }
    found: Document = {name: {"string": text} for name, text in texts.items() if text}
    found |= {name: {"version": text} for name, text in versions.items() if text}
    if gpu.numa_node is not None:
        found["resource.kubernetes.io/numaNode"] = {"int": gpu.numa_node}
    return found


def _amount(amount_bytes: int) -> Document:
    return {"value": format_quantity(amount_bytes, binary=True)}
