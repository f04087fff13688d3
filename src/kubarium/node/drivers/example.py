"""The dra-example-driver's profiles: gpu (whole, partitioned, shareable), net and cpu.

Names, attributes, capacities, policies and counter sets are those of kubernetes-sigs/
dra-example-driver ``internal/profiles``.
"""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.base.errors import ConfigError
from kubarium.base.quantity import format_quantity, parse_quantity
from kubarium.node.config import DeviceConfig
from kubarium.node.drivers.typed import attributes, capacity, stable_uuid

MEMORY, COMPUTE = "80Gi", "100"
BINDING, BINDING_FAILURE = "BindingConditions", "BindingFailureConditions"
_LEAST = {"memory": "1Gi", "compute": "1"}


def gpus(config: DeviceConfig, driver: str, node: str, index: int) -> list[Document]:
    """One GPU, or its parts and then the whole where it is partitioned."""
    base = {
        "index": {"int": index},
        "uuid": {"string": f"gpu-{stable_uuid(node, driver, index)}"},
        "model": {"string": config.model or "LATEST-GPU-MODEL"},
        "driverVersion": {"version": "1.0.0"},
        **attributes(config, driver, node, index),
    }
    if not config.partitions:
        return [_gpu(config, f"gpu-{index}", base, MEMORY, COMPUTE)]
    memory, compute = _share(MEMORY, config.partitions), _share(COMPUTE, config.partitions)
    whole = base | {"partitionable": {"bool": True}}
    devices = [
        _gpu(
            config,
            f"gpu-{index}-partition-{part}",
            whole | {"partition": {"int": part}},
            memory,
            compute,
            index,
        )
        for part in range(config.partitions)
    ]
    full = whole | {"full": {"bool": True}}
    return [*devices, _gpu(config, f"gpu-{index}-full", full, MEMORY, COMPUTE, index)]


def _share(whole: str, parts: int) -> str:
    amount = parse_quantity(whole) // parts
    if amount < 1:
        raise ConfigError(f"devices: partitions: {parts}: more parts than {whole} can give")
    return format_quantity(amount, binary=whole.endswith("i"))


def _gpu(
    config: DeviceConfig,
    name: str,
    own: Document,
    memory: str,
    compute: str,
    counters_of: int | None = None,
) -> Document:
    amounts = {"memory": memory, "compute": compute}
    device: Document = {
        "name": name,
        "attributes": own,
        "capacity": {n: _gpu_capacity(config, n, v) for n, v in amounts.items()} | capacity(config),
    }
    if config.allow_multiple:
        device["allowMultipleAllocations"] = True
    if counters_of is not None:
        used = {n: {"value": v} for n, v in amounts.items()}
        device["consumesCounters"] = [
            {"counterSet": f"gpu-{counters_of}-counters", "counters": used}
        ]
    return device


def _gpu_capacity(config: DeviceConfig, name: str, value: str) -> Document:
    if not config.allow_multiple:
        return {"value": value}
    least = _LEAST[name]
    span = {"min": least, "max": value, "step": least}
    return {"value": value, "requestPolicy": {"default": value, "validRange": span}}


def gpu_counters(config: DeviceConfig, count: int) -> list[Document]:
    """One counter set for each partitioned GPU."""
    if not config.partitions:
        return []
    counters = {"memory": {"value": MEMORY}, "compute": {"value": COMPUTE}}
    return [{"name": f"gpu-{index}-counters", "counters": counters} for index in range(count)]


def nics(config: DeviceConfig, driver: str, node: str, index: int) -> list[Document]:
    """One network card of 100 virtual functions and 100G each way, shared by bandwidth."""
    bandwidth = {
        "value": "100G",
        "requestPolicy": {
            "default": "1G",
            "validRange": {"min": "100M", "max": "100G", "step": "1M"},
        },
    }
    device: Document = {
        "name": f"nic-{index}",
        "allowMultipleAllocations": True,
        "attributes": {
            "index": {"int": index},
            "uuid": {"string": f"net-{stable_uuid(node, driver, index)}"},
            "model": {"string": config.model or "LATEST-NET-MODEL"},
            "driverVersion": {"version": "1.0.0"},
            **attributes(config, driver, node, index),
        },
        "capacity": {
            "vfs": {"value": "100", "requestPolicy": {"default": "1", "validValues": ["1"]}},
            "ingressBandwidth": bandwidth,
            "egressBandwidth": bandwidth,
            **capacity(config),
        },
    }
    return [device]


def cpus(config: DeviceConfig, driver: str, node: str, index: int) -> list[Document]:
    """One NUMA node whose CPUs are shared out, and counted as the node's own (KEP-5517)."""
    key = f"{driver}/cpu"
    device: Document = {
        "name": f"numa-{index}",
        "allowMultipleAllocations": True,
        "attributes": {
            "numaNodeID": {"int": index},
            **attributes(config, driver, node, index),
        },
        "capacity": {key: {"value": str(config.cpus)}, **capacity(config)},
        "nodeAllocatableResources": {
            "cpu": {"mapping": {"capacityKey": key, "capacityMultiplier": "1"}}
        },
    }
    return [device]
