"""The devices of a node pool as the node agents take them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kubarium.base.errors import ConfigError
from kubarium.cluster.device_health import read_failures
from kubarium.node.config import DeviceConfig
from kubarium.node.drivers.nvidia import MODELS
from kubarium.node.drivers.profiles import (
    COMPUTE_DOMAIN,
    CPU,
    EXAMPLE,
    FREE,
    NET,
    NIC,
    NVIDIA,
    NVML,
)

NVL72_NODES = 18

# Which profiles an entry of a file means something to; what stands here not is for all of them.
_MEANT_FOR: Mapping[str, tuple[str, ...]] = {
    "partitions": (EXAMPLE,),
    "mig": (NVIDIA,),
    "nvlinkNodes": (NVIDIA,),
    "allowMultiple": (EXAMPLE, NVIDIA),
    "cpus": (CPU,),
    "name": (FREE,),
    "model": (EXAMPLE, NET, NVIDIA, NIC),
    "attributes": (EXAMPLE, NET, CPU, NVIDIA, NIC, FREE),
    "capacity": (EXAMPLE, NET, CPU, NVIDIA, NIC, FREE),
    "bindingConditions": (EXAMPLE, NET, CPU, NVIDIA, NIC, FREE),
    "failures": (EXAMPLE, NET, CPU, NVIDIA, NIC, FREE),
}


def check_options(item: Mapping[str, Any], fail: Callable[[str, str], ConfigError]) -> None:
    """Raise what ``fail`` makes of an option that would change nothing for this profile, of a model
    that is not known, and of GPUs that could be shared in name only."""
    for name, profiles in _MEANT_FOR.items():
        if item.get(name) and item["profile"] not in profiles:
            text = f"means nothing to profile {item['profile']}; it is for {', '.join(profiles)}"
            raise fail(name, text)
    if item["profile"] == NVIDIA and str(item.get("model") or "H100").upper() not in MODELS:
        close = difflib.get_close_matches(str(item["model"]).upper(), MODELS, 1)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(MODELS)}"
        raise fail("model", f"unknown model {item['model']!r}{hint}")
    if item["profile"] == NVIDIA and item.get("mig") and item.get("allowMultiple"):
        text = "cannot stand beside mig: only memory has shares, engines are taken as a whole"
        raise fail("allowMultiple", text)


def device_configs(items: Iterable[Mapping[str, Any]]) -> tuple[DeviceConfig, ...]:
    """Entries of ``devices`` that have passed the schema; ConfigError for what it cannot tell."""
    items = list(items)
    found = [_config(item) for item in items]
    if any(nvlink_nodes(item) for item in items):
        found.append(DeviceConfig(COMPUTE_DOMAIN, 1))
    return tuple(found)


def nvlink_nodes(item: Mapping[str, Any]) -> int:
    """How many nodes one NVLink partition joins; 0 where GPUs share memory within a node only.

    A GB200 NVL72 rack is 18 nodes of four GPUs.
    """
    if item["profile"] != NVIDIA:
        return 0
    default = NVL72_NODES if str(item.get("model", "")).upper() == "GB200" else 0
    return int(item.get("nvlinkNodes", default))


def _config(item: Mapping[str, Any]) -> DeviceConfig:
    failures = item.get("failures")
    return DeviceConfig(
        profile=item["profile"],
        count=item.get("count", 0 if item["profile"] == NVML else 1),
        driver=item.get("driver", ""),
        model=item.get("model", ""),
        name=item.get("name", ""),
        attributes=item.get("attributes", {}),
        capacity=item.get("capacity", {}),
        device_class=item.get("deviceClass", ""),
        partitions=item.get("partitions", 0),
        mig=item.get("mig", False),
        allow_multiple=item.get("allowMultiple", False),
        binding_conditions=item.get("bindingConditions", False),
        extended_resource=item.get("extendedResourceName", ""),
        cpus=item.get("cpus", 4),
        failures=read_failures(failures, _named) if failures else None,
    )


def _named(field: str, message: str) -> ConfigError:
    return ConfigError(f"devices: failures: {field}: {message}")
