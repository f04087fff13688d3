"""The devices of a node pool as the node agents take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kubarium.base.errors import ConfigError
from kubarium.cluster.device_health import read_failures
from kubarium.node.config import DeviceConfig


def device_configs(items: Iterable[Mapping[str, Any]]) -> tuple[DeviceConfig, ...]:
    """Entries of ``devices`` that have passed the schema; ConfigError for what it cannot tell."""
    return tuple(_config(item) for item in items)


def _config(item: Mapping[str, Any]) -> DeviceConfig:
    failures = item.get("failures")
    return DeviceConfig(
        profile=item["profile"],
        count=item.get("count", 1),
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
