"""Device health as the Node says it, and the taints that a driver reports for it.

Two annotations list devices that are not well; what is not listed is healthy::

    kubarium.dev/device-health.<driver>   by command: for people, and tools that act for them
    kubarium.dev/device-events.<driver>   by the driver: schedules, traces, the machine's own GPUs

    gpu-0=Unhealthy, gpu-3=Unhealthy:NoExecute, gpu-5=Unknown, gpu-6=xid-79, gpu-7=gpu-lost

A command wins over an event of the same device (``gpu-0=Healthy`` silences one). ``Unhealthy``
taints the device, with NoSchedule unless another effect is named; ``Unknown`` means that nobody
watches the device (effect None: only informs). ``xid-N``, ``gpu-lost`` and ``unmonitored`` are the
NVIDIA driver's taints (k8s-dra-driver-gpu ``device_health.go``): an XID that an application caused
leaves the device healthy and its taint without effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kubarium.api.resource import Document
from kubarium.base.errors import ConfigError

HEALTH_ANNOTATION = "kubarium.dev/device-health."
EVENTS_ANNOTATION = "kubarium.dev/device-events."
HEALTHY, UNHEALTHY, UNKNOWN = "Healthy", "Unhealthy", "Unknown"
EFFECTS = ("None", "NoSchedule", "NoExecute")
XID, GPU_LOST, UNMONITORED = "xid", "gpu-lost", "unmonitored"

# Errors of applications after which a GPU is still well (NVIDIA's XID catalogue, by the driver).
HARMLESS_XIDS = frozenset({13, 31, 43, 45, 68, 109})
_XID = re.compile(r"xid-([0-9]{1,4})")
# The GPU in the name of a part of it (gpu-0-mig-…, gpu-0-partition-…).
_WHOLE = re.compile(r"[a-z]+-[0-9]+(?=-)")

# What the driver calls its taints: (unhealthy, unknown). Others use <driver>/unhealthy.
_KEYS = {"gpu.nvidia.com": (GPU_LOST, UNMONITORED)}
_FORMS = (
    f"DEVICE={HEALTHY}, DEVICE={UNHEALTHY}[:EFFECT], DEVICE={UNKNOWN}, DEVICE=xid-NUMBER[:EFFECT], "
    f"DEVICE={GPU_LOST}[:EFFECT] or DEVICE={UNMONITORED}"
)


@dataclass(frozen=True, slots=True)
class Health:
    """One device's state, the effect of the taint that goes with it ("" is no taint), and the
    taint's name and value where they are not the driver's usual ones."""

    state: str
    effect: str = ""
    cause: str = ""
    value: str = ""

    def text(self) -> str:
        """As annotations write it."""
        word = f"{self.cause}-{self.value}" if self.value else self.cause or self.state
        return word if not self.effect else f"{word}:{self.effect}"


HEALTH_OF_MOST = Health(HEALTHY)
_STRENGTH = {"": 0, "None": 1, "NoSchedule": 2, "NoExecute": 3}
_STATES = (HEALTHY, UNKNOWN, UNHEALTHY)


def read_health(word: str, effect: str = "") -> Health:
    """The health that a word means, with an effect other than its usual one if given.

    >>> read_health("xid-79")
    Health(state='Unhealthy', effect='NoSchedule', cause='xid', value='79')
    >>> read_health("xid-31").effect
    'None'

    ConfigError for a word or effect that means nothing.
    """
    xid = _XID.fullmatch(word)
    if xid:
        harmless = int(xid[1]) in HARMLESS_XIDS
        state, usual = (HEALTHY, "None") if harmless else (UNHEALTHY, "NoSchedule")
        found = Health(state, usual, XID, str(int(xid[1])))
    elif word == GPU_LOST:
        found = Health(UNHEALTHY, "NoSchedule", GPU_LOST)
    elif word == UNMONITORED:
        found = Health(UNKNOWN, "None", UNMONITORED)
    elif word in (HEALTHY, UNHEALTHY, UNKNOWN):
        found = Health(word, {UNHEALTHY: "NoSchedule", UNKNOWN: "None"}.get(word, ""))
    else:
        raise ConfigError(
            f"{word!r} is no health; write {HEALTHY}, {UNHEALTHY}, {UNKNOWN}, xid-NUMBER, "
            f"{GPU_LOST} or {UNMONITORED}"
        )
    if not effect:
        return found
    if word == HEALTHY:
        raise ConfigError(f"effect {effect!r}: what is {HEALTHY} has no taint, so no effect either")
    if effect not in EFFECTS:
        raise ConfigError(f"effect {effect!r}: must be one of {', '.join(EFFECTS)}")
    return Health(found.state, effect, found.cause, found.value)


def health_text(node: Document, driver: str) -> str:
    """What has been commanded for the driver's devices."""
    annotations = node["metadata"].get("annotations") or {}
    return str(annotations.get(HEALTH_ANNOTATION + driver) or "")


def parse_health(text: str) -> dict[str, Health]:
    """Device name to health; ConfigError names the entry that is wrong."""
    found: dict[str, Health] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        device, equals, rest = entry.partition("=")
        word, _, effect = rest.partition(":")
        if not equals or not device:
            raise ConfigError(f"{entry!r}: must be {_FORMS}")
        try:
            found[device] = read_health(word, effect)
        except ConfigError as error:
            if effect and str(error).startswith("effect"):
                message = f"{entry!r}: effect: must be one of {', '.join(EFFECTS)}"
                raise ConfigError(message) from None
            raise ConfigError(f"{entry!r}: must be {_FORMS}") from None
    return found


def format_health(health: Mapping[str, Health]) -> str:
    """What :func:`parse_health` reads, in order of names."""
    return ",".join(f"{device}={health[device].text()}" for device in sorted(health))


def node_health(node: Document, driver: str) -> dict[str, Health]:
    """All that is known of the driver's devices on a node; ConfigError for a wrong annotation."""
    annotations = node["metadata"].get("annotations") or {}
    events = str(annotations.get(EVENTS_ANNOTATION + driver) or "")
    return parse_health(events) | parse_health(health_text(node, driver))


def speaks_of_health(node: Document) -> bool:
    """Whether anything was ever said of the health of the node's devices."""
    annotations = node["metadata"].get("annotations") or {}
    return any(name.startswith((HEALTH_ANNOTATION, EVENTS_ANNOTATION)) for name in annotations)


def without_events(annotations: Mapping[str, str]) -> dict[str, str]:
    """A Node's annotations without what drivers have said."""
    return {k: v for k, v in annotations.items() if not k.startswith(EVENTS_ANNOTATION)}


def taint_of(driver: str, health: Health) -> Document | None:
    """The taint that the driver puts on a device of this health, without its time."""
    if not health.effect:
        return None
    if health.cause:
        taint = {"key": f"{driver}/{health.cause}", "effect": health.effect}
        return taint | ({"value": health.value} if health.value else {})
    unhealthy, unknown = _KEYS.get(driver, ("unhealthy", UNMONITORED))
    name = unhealthy if health.state == UNHEALTHY else unknown
    return {"key": f"{driver}/{name}", "value": "true", "effect": health.effect}


def tainted(devices: list[Document], driver: str, health: Mapping[str, Health]) -> list[Document]:
    """The devices with the taints of their health; a GPU's parts share its fate."""
    result = []
    for device in devices:
        taint = taint_of(driver, health_of(device["name"], health))
        result.append(device if taint is None else {**device, "taints": [taint]})
    return result


def health_changes(
    driver: str, before: Mapping[str, Health], after: Mapping[str, Health]
) -> list[tuple[str, str, str]]:
    """Events for a node whose devices' health became another: type, reason and message."""
    found = []
    for device in sorted(before.keys() | after.keys()):
        old, new = before.get(device, HEALTH_OF_MOST), after.get(device, HEALTH_OF_MOST)
        if old == new:
            continue
        taint = taint_of(driver, new)
        if taint is None:
            found.append(("Normal", "DeviceHealthy", f"{driver} {device} is healthy"))
            continue
        value = f"={taint['value']}" if taint.get("value") else ""
        text = f"{driver} {device} is {new.state}: taint {taint['key']}{value}:{taint['effect']}"
        reason = "DeviceUnhealthy" if new.state == UNHEALTHY else "DeviceTainted"
        found.append(("Warning", reason, text))
    return found


def whole_of(device: str) -> str:
    """The GPU that a device is a part of, by the form of its name; "" for none.

    >>> whole_of("gpu-0-mig-1g10gb-19-0"), whole_of("gpu-0")
    ('gpu-0', '')
    """
    found = _WHOLE.match(device)
    return found[0] if found else ""


def absent_devices(names: Iterable[str], spoken_of: Iterable[str]) -> list[str]:
    """Devices that are spoken of, but neither published (``names``) nor GPUs of which parts are."""
    known = set(names)
    known |= {whole for name in known if (whole := whole_of(name))}
    return sorted(set(spoken_of) - known)


def worse(one: Health, other: Health) -> Health:
    """The one with the stronger effect; of two as strong, the one that is less well."""
    return max(one, other, key=lambda h: (_STRENGTH[h.effect], _STATES.index(h.state)))


def health_of(device: str, health: Mapping[str, Health]) -> Health:
    """A device's health: its own, or that of the GPU that it is a part of (gpu-0-mig-…) where that
    is worse. A part that is said to be Healthy is so whatever its GPU is."""
    own = health.get(device)
    if own == HEALTH_OF_MOST:
        return own
    whole = health.get(whole_of(device))
    if own is None or whole is None:
        return own or whole or HEALTH_OF_MOST
    return worse(own, whole)
