"""Device health, as commanded on the Node, and the taints that a driver reports for it.

The annotation ``kubarium.dev/device-health.<driver>`` lists devices that are not well::

    gpu-0=Unhealthy, gpu-3=Unhealthy:NoExecute, gpu-5=Unknown

``Unhealthy`` taints the device, with NoSchedule unless another effect is named; ``Unknown`` means
that nobody watches the device (effect None: only informs). Devices not listed are healthy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kubarium.api.resource import Document
from kubarium.base.errors import ConfigError

HEALTH_ANNOTATION = "kubarium.dev/device-health."
HEALTHY, UNHEALTHY, UNKNOWN = "Healthy", "Unhealthy", "Unknown"
EFFECTS = ("None", "NoSchedule", "NoExecute")

# What the driver calls its taints: (unhealthy, unknown). Others use <driver>/unhealthy.
_KEYS = {"gpu.nvidia.com": ("gpu-lost", "unmonitored")}


@dataclass(frozen=True, slots=True)
class Health:
    """One device's state and the effect of the taint that goes with it ("" is no taint)."""

    state: str
    effect: str = ""


HEALTH_OF_MOST = Health(HEALTHY)


def health_text(node: Document, driver: str) -> str:
    """What the Node says of the driver's devices."""
    annotations = node["metadata"].get("annotations") or {}
    return str(annotations.get(HEALTH_ANNOTATION + driver) or "")


def parse_health(text: str) -> dict[str, Health]:
    """Device name to health; ConfigError names the entry that is wrong."""
    found: dict[str, Health] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        device, equals, rest = entry.partition("=")
        state, _, effect = rest.partition(":")
        if not equals or not device or state not in (HEALTHY, UNHEALTHY, UNKNOWN):
            raise ConfigError(
                f"{entry!r}: must be DEVICE={HEALTHY}, DEVICE={UNHEALTHY}[:EFFECT] "
                f"or DEVICE={UNKNOWN}"
            )
        if effect and (effect not in EFFECTS or state == HEALTHY):
            raise ConfigError(f"{entry!r}: effect: must be one of {', '.join(EFFECTS)}")
        default = {UNHEALTHY: "NoSchedule", UNKNOWN: "None"}.get(state, "")
        found[device] = Health(state, effect or default)
    return found


def taint_of(driver: str, health: Health) -> Document | None:
    """The taint that the driver puts on a device of this health, without its time."""
    if not health.effect:
        return None
    unhealthy, unknown = _KEYS.get(driver, ("unhealthy", "unmonitored"))
    name = unhealthy if health.state == UNHEALTHY else unknown
    return {"key": f"{driver}/{name}", "value": "true", "effect": health.effect}


def tainted(devices: list[Document], driver: str, health: Mapping[str, Health]) -> list[Document]:
    """The devices with the taints of their health."""
    result = []
    for device in devices:
        taint = taint_of(driver, health.get(device["name"], HEALTH_OF_MOST))
        result.append(device if taint is None else {**device, "taints": [taint]})
    return result
