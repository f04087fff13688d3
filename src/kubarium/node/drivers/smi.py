"""``nvidia-smi`` of containers that hold simulated GPUs: it lists them as the real one lists GPUs.

The vendor's demos print ``nvidia-smi -L`` and their readers compare the uuids; with simulated GPUs
there is no driver that a real nvidia-smi could ask.
"""

from __future__ import annotations

from collections.abc import Sequence

from kubarium.api.resource import Document
from kubarium.node.config import DeviceConfig
from kubarium.node.drivers.profiles import devices_of
from kubarium.node.drivers.typed import stable_uuid

PATH = "/usr/local/bin/nvidia-smi"

_PROGRAM = """#!/bin/sh
# The GPUs of this container are simulated: there is nothing to ask, and this is what there is.
case "$1" in
-L|--list-gpus)
    cat <<'LIST'
{listing}
LIST
    ;;
*)
    echo "nvidia-smi: these GPUs are simulated; only -L is answered" >&2
    exit 2
    ;;
esac
"""


def program(config: DeviceConfig, driver: str, pool: str, devices: Sequence[str]) -> str:
    """The program for a container that holds these devices of a simulated NVIDIA driver."""
    known = {d["name"]: d for d in devices_of(config, pool, _count(config, devices))}
    held = [known[name] for name in dict.fromkeys(devices) if name in known]
    return _PROGRAM.format(listing="\n".join(_listing(held, driver, pool)))


def _count(config: DeviceConfig, devices: Sequence[str]) -> int:
    """Enough hardware for all names: the node may have been given more than the file says."""
    numbers = [int(name.split("-")[1]) + 1 for name in devices if name.split("-")[1].isdigit()]
    return max([config.count, *numbers])


def _listing(held: list[Document], driver: str, pool: str) -> list[str]:
    """A line for each GPU in the order of the machine, below it one for each MIG instance."""
    by_gpu: dict[int, list[Document]] = {}
    for device in held:
        by_gpu.setdefault(int(device["name"].split("-")[1]), []).append(device)
    lines = []
    for place, number in enumerate(sorted(by_gpu)):
        first = by_gpu[number][0]["attributes"]
        uuid = first.get("parentUUID", first.get("uuid"))["string"]
        lines.append(f"GPU {place}: {first['productName']['string']} (UUID: {uuid})")
        parts = [d for d in by_gpu[number] if "parentUUID" in d["attributes"]]
        for index, part in enumerate(parts):
            profile = part["attributes"]["profile"]["string"]
            own = mig_uuid(pool, driver, part["name"])
            lines.append(f"  MIG {profile:<15} Device {index:>2}: (UUID: {own})")
    return lines


def mig_uuid(pool: str, driver: str, device: str) -> str:
    """The uuid of a simulated MIG instance: always the same for the same place on a GPU."""
    return f"MIG-{stable_uuid(pool, f'{driver}/{device}', 0)}"
