"""What a container sees of a device: environment variables, driver by driver.

The names are those of the drivers that are imitated (kubernetes-sigs/dra-example-driver
``internal/profiles`` and ``cdi.go``; the NVIDIA container runtime).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from kubarium.api import device_configs
from kubarium.api.device_configs import ConfigRefused, UnknownConfig
from kubarium.base.quantity import parse_quantity
from kubarium.node.config import DeviceConfig
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

# How the example driver calls its devices in CDI, which is in the names of variables.
_CLASSES = {EXAMPLE: "GPU", NET: "NET", CPU: "CPU"}
_NO_WORD = re.compile(r"[^a-zA-Z0-9]+")

_Json = Mapping[str, Any]
_T = TypeVar("_T")
_Edit = Callable[[_Json, _Json], dict[str, str]]


def profile_of(driver: str, known: object) -> str:
    """The profile behind a driver's name, from its configuration or, without one, by the name."""
    if isinstance(known, DeviceConfig):
        return known.profile
    by_name = {EXAMPLE: EXAMPLE, NET: NET, CPU: CPU, "gpu.nvidia.com": NVIDIA, "dra.net": NIC}
    by_name["compute-domain.nvidia.com"] = COMPUTE_DOMAIN
    return by_name.get(driver, FREE)


def decode_all(profile: str, configs: Iterable[_Json]) -> None:
    """ConfigRefused unless the driver can read every configuration that is for it, also those that
    are for none of the devices: whether they make sense is asked of those that are applied."""
    known = _KINDS.get(profile)
    if known is None:
        return
    try:
        for config in configs:
            device_configs.decode(config, known)
    except UnknownConfig as problem:
        text = "error getting opaque device configs: error decoding config parameters"
        where = "error generating configResultsMap: " if profile == COMPUTE_DOMAIN else ""
        raise ConfigRefused(f"{where}{text}: {problem}") from None


def takes(profile: str, result: _Json, config: _Json, is_named: bool) -> bool:
    """Whether an allocated device may be configured so: NVIDIA's configurations are for whole GPUs
    or for instances, for channels or for daemons, and one for all requests passes over the devices
    of the other sort. ConfigRefused where it names the request of such a device (``is_named``)."""
    device, kind, request = result["device"], config.get("kind"), result["request"]
    if profile in (NVIDIA, NVML):
        sort = "mig" if "-mig-" in device else "gpu"
        meant = _SORTS
        words = f'{kind} to device "{device}" of type "{sort}" (request: {request})'
    elif profile == COMPUTE_DOMAIN:
        sort = device.partition("-")[0]
        meant = _DOMAIN_SORTS
        words = f"{kind} to request: {request}"
    else:
        return True
    if kind not in meant or meant[kind] == sort:
        return True
    if not is_named:
        return False
    where = "error generating configResultsMap: " if profile == COMPUTE_DOMAIN else ""
    raise ConfigRefused(f"{where}cannot apply {words}")


def device_environment(
    profile: str, result: _Json, config: _Json, admin: bool, claim_uid: str = ""
) -> dict[str, str]:
    """The variables for one allocated device.

    ``admin``: something in the claim has admin access, which the example driver reports with every
    device. NVIDIA's variables name all devices of a container at once: see :func:`visible`.
    """
    env = _EDITS.get(profile, _plain)(result, config)
    if profile in (NVIDIA, NVML, COMPUTE_DOMAIN):
        return env
    env["DRA_RESOURCE_DRIVER_NAME"] = result["driver"]
    if profile in _CLASSES:
        env["KUBERNETES_NODE_NAME"] = result["pool"]
        stem = f"{_CLASSES[profile]}_DEVICE_{_NO_WORD.sub('_', result['device']).upper()}"
        env[f"{stem}_RESOURCE_CLAIM"] = claim_uid
    if profile in _EDITS or admin:
        env["DRA_ADMIN_ACCESS"] = "true" if admin else "false"
    return env


def visible(identities: list[str]) -> dict[str, str]:
    """NVIDIA's variables for a container with these devices, by number, uuid or name."""
    text = ",".join(dict.fromkeys(identities))
    return {"NVIDIA_VISIBLE_DEVICES": text, "CUDA_VISIBLE_DEVICES": text} if text else {}


def pinned_memory(profile: str, config: _Json, uuids: Sequence[str]) -> dict[str, int]:
    """Limits of an MPS daemon's clients in MiB, by uuid of the devices that a configuration is for;
    ConfigRefused if it names another. Empty without MPS."""
    if profile not in (NVIDIA, NVML):
        return {}
    try:
        sharing = device_configs.nvidia_gpu(config)
        if sharing is None or sharing.strategy != device_configs.MPS:
            return {}
        return device_configs.pinned_limits(sharing, sorted(uuids))
    except ConfigRefused as problem:
        raise ConfigRefused(f"error applying config: {problem}") from None


def pinned(identities: Sequence[str], limits: Mapping[str, int]) -> dict[str, str]:
    """Those limits as CUDA's variable, which counts the devices that a container sees from 0."""
    seen = enumerate(dict.fromkeys(identities))
    text = ",".join(f"{place}={limits[name]}M" for place, name in seen if name in limits)
    return {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": text} if text else {}


def identity_of(device: str) -> str:
    """``gpu-3`` is number 3; a partition goes by its own name."""
    rest = device.removeprefix("gpu-")
    return rest if rest.isdigit() else device


def sharing_notes(config: _Json) -> tuple[str, ...]:
    """What of a sharing configuration has no effect on GPUs of this machine."""
    sharing = device_configs.nvidia_gpu(config)
    if sharing is None:
        return ()
    if sharing.strategy == device_configs.MPS:
        return (
            "MPS: no control daemon is started; the limits hold only where one runs on the machine",
        )
    if sharing.interval != "Default":
        text = f"time slices of length {sharing.interval} are not set; the GPU's own hold"
        return (text,)
    return ()


def _safe(device: str) -> str:
    """``gpu-3-partition-1`` is 3_PARTITION_1."""
    return device.partition("-")[2].upper().replace("-", "_") or device.upper()


def _plain(result: _Json, config: _Json) -> dict[str, str]:
    stem = result["driver"].partition(".")[0].upper().replace("-", "_")
    return {f"{stem}_DEVICE_{_safe(result['device'])}": result["device"]}


def _gpu(result: _Json, config: _Json) -> dict[str, str]:
    prefix = f"GPU_DEVICE_{_safe(result['device'])}"
    where = "error applying config: error validating GPU config"
    sharing = _valid(device_configs.example_gpu, config, where)
    env = {prefix: result["device"], f"{prefix}_SHARING_STRATEGY": sharing.strategy}
    if sharing.strategy == device_configs.TIME_SLICING:
        env[f"{prefix}_TIMESLICE_INTERVAL"] = sharing.interval
    else:
        env[f"{prefix}_PARTITION_COUNT"] = str(sharing.partitions)
    consumed = result.get("consumedCapacity") or {}
    for name in ("memory", "compute"):
        if name in consumed:
            env[f"{prefix}_{name.upper()}"] = str(consumed[name])
    return env


def _net(result: _Json, config: _Json) -> dict[str, str]:
    where = "error applying config: error validating Net config"
    bursts = _valid(device_configs.example_net, config, where)
    prefix = f"NET_DEVICE_{_safe(result['device'])}"
    env = {f"{prefix}_{way.upper()}_BURST": str(bits) for way, bits in bursts.items()}
    consumed = result.get("consumedCapacity") or {}
    for way in ("ingress", "egress"):
        rate = consumed.get(f"{way}Bandwidth")
        if rate is not None:
            env[f"{prefix}_{way.upper()}_RATE"] = str(int(parse_quantity(rate)))
    return env


def _cpu(result: _Json, config: _Json) -> dict[str, str]:
    prefix = f"CPU_DEVICE_{_safe(result['device'])}"
    env = {prefix: result["device"]}
    amount = (result.get("consumedCapacity") or {}).get(f"{result['driver']}/cpu")
    if amount is not None:
        env[f"{prefix}_CONSUMED_CPU"] = str(amount)
    return env


def _channel(result: _Json, config: _Json) -> dict[str, str]:
    """What the NVIDIA container toolkit is asked for: the channels of a claim's domain."""
    _valid(device_configs.compute_domain, config, "error validating config")
    everything = config.get("allocationMode") == "All"
    return {"NVIDIA_IMEX_CHANNELS": "all" if everything else "0"}


def _nvidia(result: _Json, config: _Json) -> dict[str, str]:
    """CUDA's own variables for a client of an MPS daemon."""
    sharing = _valid(device_configs.nvidia_gpu, config, "error validating GPU config")
    if sharing is None or sharing.strategy != device_configs.MPS:
        return {}
    if result.get("shareID"):
        raise ConfigRefused(
            "error applying config: MPS sharing is not supported when consumable shares is enabled"
        )
    env = {}
    if sharing.thread_percentage is not None:
        env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(sharing.thread_percentage)
    return env


def _valid(check: Callable[[_Json], _T], config: _Json, where: str) -> _T:
    """What the check makes of it; ConfigRefused, in the driver's words, if it makes no sense."""
    try:
        return check(config)
    except ConfigRefused as problem:
        raise ConfigRefused(f"{where}: {problem}") from None


_SORTS = {
    device_configs.GPU_CONFIG: "gpu",
    device_configs.MIG_CONFIG: "mig",
    device_configs.VFIO_CONFIG: "vfio",
}
_DOMAIN_SORTS = {device_configs.CHANNEL_CONFIG: "channel", device_configs.DAEMON_CONFIG: "daemon"}
# What the drivers' decoders know; drivers of other profiles take whatever they are told.
_KINDS: dict[str, device_configs.Kinds] = {
    EXAMPLE: device_configs.EXAMPLE_GPU_KINDS,
    NET: device_configs.EXAMPLE_NET_KINDS,
    CPU: device_configs.EXAMPLE_CPU_KINDS,
    NVIDIA: device_configs.NVIDIA_KINDS,
    NVML: device_configs.NVIDIA_KINDS,
    COMPUTE_DOMAIN: device_configs.NVIDIA_KINDS,
}
_EDITS: dict[str, _Edit] = {
    EXAMPLE: _gpu,
    NET: _net,
    CPU: _cpu,
    NVIDIA: _nvidia,
    NVML: _nvidia,
    COMPUTE_DOMAIN: _channel,
}
