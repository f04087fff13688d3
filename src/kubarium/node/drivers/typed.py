"""Attribute and capacity values of devices as documents, from what a cluster file says."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any

from kubarium.api import formats
from kubarium.api.resource import Document
from kubarium.base.errors import ConfigError
from kubarium.base.quantity import QuantityError, canonical
from kubarium.node.config import DeviceConfig

# Two devices share a PCIe root complex, which is what claims are aligned by.
_DEVICES_PER_ROOT = 2


def stable_uuid(node: str, driver: str, index: int) -> str:
    """The same device has the same uuid after a restart, as with the example driver."""
    digest = hashlib.sha256(f"{driver}/{node}/{index}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def pcie_root(index: int) -> Document:
    """The root complex of the device at ``index``; equal for GPUs and NICs that are neighbours."""
    return {"string": f"pci0000:{0x15 + 4 * (index // _DEVICES_PER_ROOT):02x}"}


def pci_bus_id(index: int, first_bus: int) -> Document:
    """``domain:bus:device.function`` of the device at ``index``."""
    return {"string": f"0000:{first_bus + 0x10 * (index % 8):02x}:{index // 8:02x}.0"}


def attributes(config: DeviceConfig, driver: str, node: str, index: int) -> Document:
    """The file's own attributes; ConfigError names one that has no type."""
    return {
        name: _attribute(name, value, driver, node, index)
        for name, value in config.attributes.items()
    }


def _attribute(name: str, value: Any, driver: str, node: str, index: int) -> Document:
    """A typed value; plain ones get the type that they look like."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bool):
        return {"bool": value}
    if isinstance(value, int):
        return {"int": value}
    if not isinstance(value, str):
        raise ConfigError(f"devices: attributes: {name}: must be a string, integer or boolean")
    text = fill(value, driver, node, index)
    if "{index}" in value and text.isdigit():
        return {"int": int(text)}
    return {"string": text} if formats.semantic_version(text) else {"version": text}


def fill(text: str, driver: str, node: str, index: int) -> str:
    """``text`` with its ``{index}``, ``{node}`` and ``{uuid}``."""
    values = {"index": str(index), "node": node, "uuid": stable_uuid(node, driver, index)}
    for key, value in values.items():
        text = text.replace(f"{{{key}}}", value)
    return text


def capacity(config: DeviceConfig) -> Document:
    """The file's own capacities; ConfigError names one that is not a quantity."""
    result = {}
    for name, value in config.capacity.items():
        if isinstance(value, Mapping):
            result[name] = dict(value)
            continue
        try:
            result[name] = {"value": canonical(value)}
        except QuantityError as error:
            raise ConfigError(f"devices: capacity: {name}: {error}") from error
    return result
