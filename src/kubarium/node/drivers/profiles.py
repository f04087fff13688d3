"""What devices of each profile look like, as documents. Pure: same input, same devices."""

from __future__ import annotations

from collections.abc import Callable

from kubarium.api.resource import Document
from kubarium.base.errors import ConfigError
from kubarium.node.config import DeviceConfig
from kubarium.node.drivers import domains, example, nvidia
from kubarium.node.drivers.typed import attributes, capacity, fill, stable_uuid

__all__ = [
    "COMPUTE_DOMAIN",
    "CPU",
    "EXAMPLE",
    "FREE",
    "NET",
    "NIC",
    "NVIDIA",
    "NVML",
    "counter_sets_of",
    "device_classes",
    "devices_of",
    "driver_of",
    "stable_uuid",
]

EXAMPLE, NET, CPU = "gpu.example.com", "net.example.com", "cpu.example.com"
NVIDIA, NIC, FREE = "nvidia", "nic", "free"
COMPUTE_DOMAIN = "compute-domain"
# The machine's own GPUs, found through NVML.
NVML = "nvml"

_DRIVERS = {
    EXAMPLE: EXAMPLE,
    NET: NET,
    CPU: CPU,
    NVIDIA: "gpu.nvidia.com",
    NVML: "gpu.nvidia.com",
    NIC: "dra.net",
    COMPUTE_DOMAIN: "compute-domain.nvidia.com",
}

_Make = Callable[[DeviceConfig, str, str, int], list[Document]]


def driver_of(config: DeviceConfig) -> str:
    """The driver's name; ConfigError where it cannot be told."""
    if config.profile in _DRIVERS:
        return config.driver or _DRIVERS[config.profile]
    if config.profile == FREE and config.driver:
        return config.driver
    if config.profile == FREE:
        raise ConfigError("devices: driver: required with profile free")
    known = ", ".join((*_DRIVERS, FREE))
    raise ConfigError(f"devices: profile: unknown profile {config.profile!r}; known: {known}")


def devices_of(config: DeviceConfig, node: str, count: int) -> list[Document]:
    """The devices of ``count`` pieces of hardware of one node; a piece may be several devices."""
    driver = driver_of(config)
    make = _MAKE[config.profile]
    devices = [d for index in range(count) for d in make(config, driver, node, index)]
    if config.binding_conditions:
        for device in devices:
            device["bindingConditions"] = [example.BINDING]
            device["bindingFailureConditions"] = [example.BINDING_FAILURE]
    return devices


def counter_sets_of(config: DeviceConfig, count: int) -> list[Document]:
    """The shared counters that those devices consume; empty where nothing is partitioned."""
    if config.profile == EXAMPLE:
        return example.gpu_counters(config, count)
    return nvidia.gpu_counters(config, count) if config.profile == NVIDIA else []


def device_classes(config: DeviceConfig) -> list[Document]:
    """The DeviceClasses that come with the driver; with profile free only if one is named."""
    driver = driver_of(config)
    if config.profile == COMPUTE_DOMAIN:
        return [_class(name, text, "") for name, text in domains.device_classes().items()]
    name = config.device_class or (driver if config.profile != FREE else "")
    if not name:
        return []
    expression = f'device.driver == "{driver}"'
    if config.profile not in (NVIDIA, NVML):
        return [_class(name, expression, config.extended_resource)]
    typed = f'{expression} && device.attributes["{driver}"].type == '
    # Under another name the driver stands beside the vendor's, whose classes are not its own.
    is_vendors = driver == _DRIVERS[NVIDIA]
    extended = config.extended_resource or ("nvidia.com/gpu" if is_vendors else "")
    whole = _class(name, f'{typed}"gpu"', extended)
    parts = _class("mig.nvidia.com" if is_vendors else f"mig.{driver}", f'{typed}"mig"', "")
    return [whole, parts] if config.mig or config.profile == NVML else [whole]


def _class(name: str, expression: str, extended_resource: str) -> Document:
    spec: Document = {"selectors": [{"cel": {"expression": expression}}]}
    if extended_resource:
        spec["extendedResourceName"] = extended_resource
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": name},
        "spec": spec,
    }


def _of_machine(config: DeviceConfig, driver: str, node: str, index: int) -> list[Document]:
    return []  # what there is, only the machine knows: see drivers.nvml


def _free(config: DeviceConfig, driver: str, node: str, index: int) -> list[Document]:
    pattern = config.name or "device-{index}"
    device: Document = {"name": fill(pattern, driver, node, index)}
    if config.attributes:
        device["attributes"] = attributes(config, driver, node, index)
    if config.capacity:
        device["capacity"] = capacity(config)
    return [device]


def _domain(config: DeviceConfig, driver: str, node: str, index: int) -> list[Document]:
    return domains.devices()


_MAKE: dict[str, _Make] = {
    EXAMPLE: example.gpus,
    NET: example.nics,
    CPU: example.cpus,
    NVIDIA: nvidia.gpus,
    NVML: _of_machine,
    NIC: nvidia.nics,
    COMPUTE_DOMAIN: _domain,
    FREE: _free,
}
