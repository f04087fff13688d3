"""What the scheduler's events say of devices that it leaves alone for a while.

It knows that by itself, and nobody else would: an event is about the ResourceSlice, and its field
path names the device. Whether the rest has ended follows from the event's time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339
from kubarium.engine.devices.model import DeviceId, Rest
from kubarium.view.pods import seconds
from kubarium.view.warnings import about, seen_at

# Long enough for pods to be decided anew, and for the driver to taint the device.
REST_S = 30.0

# The reasons of the events: of a first rest, and of a device that has failed twice in a row.
RESTS, RESTS_AGAIN = "DeviceRests", "DeviceRestsAgain"

_PATH = re.compile(r"spec\.devices\{(.+)\}")


def reason_of(rest: Rest) -> str:
    """The reason of the event that tells of the rest."""
    return RESTS_AGAIN if rest.again else RESTS


def device_path(device: DeviceId) -> str:
    """The part of a ResourceSlice that the event is about."""
    return f"spec.devices{{{device.device}}}"


def rests_of(
    events: Iterable[Document], slices: Iterable[Document], now: float
) -> tuple[Rest, ...]:
    """The devices of these ResourceSlices that rest ``now``, in seconds since the epoch."""
    newest: dict[tuple[str, str], tuple[float, Document]] = {}
    for event in events:
        if event.get("reason") not in (RESTS, RESTS_AGAIN):
            continue
        end = seconds(seen_at(event), -math.inf) + REST_S
        key = (about(event).get("uid", ""), about(event).get("fieldPath", ""))
        if end > now and (key not in newest or end > newest[key][0]):
            newest[key] = (end, event)
    return tuple(_found(newest, slices)) if newest else ()


def _found(
    newest: dict[tuple[str, str], tuple[float, Document]], slices: Iterable[Document]
) -> Iterator[Rest]:
    specs = {item["metadata"].get("uid", ""): item.get("spec") or {} for item in slices}
    for (uid, path), (end, event) in newest.items():
        spec, named = specs.get(uid), _PATH.fullmatch(path)
        if spec is not None and named is not None:
            pool = (spec.get("pool") or {}).get("name", "")
            device = DeviceId(spec.get("driver", ""), pool, named[1])
            told = str(event.get("message") or "").removeprefix("device ")
            yield Rest(device, told, rfc3339(end), event["reason"] == RESTS_AGAIN)
