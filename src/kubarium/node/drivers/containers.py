"""What a container sees of a device: environment variables, driver by driver.

The names are those of the drivers that are imitated (kubernetes-sigs/dra-example-driver
``internal/profiles`` and ``cdi.go``; the NVIDIA container runtime).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kubarium.base.errors import KubariumError
from kubarium.base.quantity import parse_quantity
from kubarium.node.config import DeviceConfig
from kubarium.node.drivers.profiles import COMPUTE_DOMAIN, CPU, EXAMPLE, FREE, NET, NIC, NVIDIA

_INTERVALS = ("Default", "Short", "Medium", "Long")
_MAX_BURST = 8 * (2**32 - 1)

_Json = Mapping[str, Any]
_Edit = Callable[[_Json, _Json], dict[str, str]]


class ConfigProblem(KubariumError):
    """Opaque parameters that the driver does not take; the message is the driver's."""


def profile_of(driver: str, known: object) -> str:
    """The profile behind a driver's name, from its configuration or, without one, by the name."""
    if isinstance(known, DeviceConfig):
        return known.profile
    by_name = {EXAMPLE: EXAMPLE, NET: NET, CPU: CPU, "gpu.nvidia.com": NVIDIA, "dra.net": NIC}
    by_name["compute-domain.nvidia.com"] = COMPUTE_DOMAIN
    return by_name.get(driver, FREE)


def device_environment(profile: str, result: _Json, config: _Json, admin: bool) -> dict[str, str]:
    """The variables for one allocated device.

    ``admin``: something in the claim has admin access, which the example driver reports with every
    device. NVIDIA's variables name all devices of a container at once: see :func:`visible`.
    """
    if profile == NVIDIA:
        return {}
    if profile == COMPUTE_DOMAIN:
        return _channels(config)
    env = _EDITS.get(profile, _plain)(result, config)
    env["DRA_RESOURCE_DRIVER_NAME"] = result["driver"]
    if profile in _EDITS or admin:
        env["DRA_ADMIN_ACCESS"] = "true" if admin else "false"
    return env


def visible(devices: list[str]) -> dict[str, str]:
    """NVIDIA's variables for a container with these devices."""
    numbers = [_identity(device) for device in dict.fromkeys(devices)]
    text = ",".join(numbers)
    return {"NVIDIA_VISIBLE_DEVICES": text, "CUDA_VISIBLE_DEVICES": text} if numbers else {}


def _identity(device: str) -> str:
    """``gpu-3`` is number 3; a partition goes by its own name."""
    rest = device.removeprefix("gpu-")
    return rest if rest.isdigit() else device


def _safe(device: str) -> str:
    """``gpu-3-partition-1`` is 3_PARTITION_1."""
    return device.partition("-")[2].upper().replace("-", "_") or device.upper()


def _plain(result: _Json, config: _Json) -> dict[str, str]:
    stem = result["driver"].partition(".")[0].upper().replace("-", "_")
    return {f"{stem}_DEVICE_{_safe(result['device'])}": result["device"]}


def _gpu(result: _Json, config: _Json) -> dict[str, str]:
    prefix = f"GPU_DEVICE_{_safe(result['device'])}"
    env = {prefix: result["device"]} | _sharing(prefix, config)
    consumed = result.get("consumedCapacity") or {}
    for name in ("memory", "compute"):
        if name in consumed:
            env[f"{prefix}_{name.upper()}"] = str(consumed[name])
    return env


def _sharing(prefix: str, config: _Json) -> dict[str, str]:
    """Strategy and its setting; time slicing is the default."""
    _expect(config, "GpuConfig", "gpu.resource.example.com/v1alpha1")
    sharing = config.get("sharing") or {"strategy": "TimeSlicing"}
    strategy = sharing.get("strategy", "")
    slicing, parts = sharing.get("timeSlicingConfig"), sharing.get("spacePartitioningConfig")
    if strategy == "TimeSlicing":
        if parts is not None:
            _refuse(f"cannot use SpacePartitioningConfig with the '{strategy}' strategy")
        interval = (slicing or {"interval": "Default"}).get("interval", "")
        if interval not in _INTERVALS:
            _refuse(f"unknown time-slice interval: {interval}")
        setting = {f"{prefix}_TIMESLICE_INTERVAL": interval}
    elif strategy == "SpacePartitioning":
        if slicing is not None:
            _refuse(f"cannot use TimeSlicingConfig with the '{strategy}' strategy")
        count = (parts or {"partitionCount": 1}).get("partitionCount", 0)
        if not isinstance(count, int) or count < 0:
            _refuse(f"invalid partition count: {count}")
        setting = {f"{prefix}_PARTITION_COUNT": str(count)}
    else:
        _refuse(f"unknown GPU sharing strategy: {strategy}")
    return {f"{prefix}_SHARING_STRATEGY": strategy} | setting


def _net(result: _Json, config: _Json) -> dict[str, str]:
    _expect(config, "NetConfig", "net.resource.example.com/v1alpha1")
    prefix = f"NET_DEVICE_{_safe(result['device'])}"
    env: dict[str, str] = {}
    burst = config.get("bwBurst") or {}
    for way in ("ingress", "egress"):
        bits = burst.get(f"{way}Burst", 0)
        if not isinstance(bits, int) or not 0 <= bits < _MAX_BURST:
            _refuse(f"invalid {way}Burst: burst cannot be more than 4GB")
        if bits:
            env[f"{prefix}_{way.upper()}_BURST"] = str(bits)
    consumed = result.get("consumedCapacity") or {}
    for way in ("ingress", "egress"):
        rate = consumed.get(f"{way}Bandwidth")
        if rate is not None:
            env[f"{prefix}_{way.upper()}_RATE"] = str(int(parse_quantity(rate)))
    return env


def _cpu(result: _Json, config: _Json) -> dict[str, str]:
    if config:
        _refuse("configuration not allowed")
    prefix = f"CPU_DEVICE_{_safe(result['device'])}"
    env = {prefix: result["device"]}
    amount = (result.get("consumedCapacity") or {}).get(f"{result['driver']}/cpu")
    if amount is not None:
        env[f"{prefix}_CONSUMED_CPU"] = str(amount)
    return env


def _channels(config: _Json) -> dict[str, str]:
    """What the NVIDIA container toolkit is asked for: the channels of a claim's domain."""
    if config.get("kind") not in ("ComputeDomainChannelConfig", "ComputeDomainDaemonConfig"):
        _refuse(f"unknown config type: {config.get('kind') or 'none'}")
    if not config.get("domainID"):
        _refuse("domainID cannot be empty")
    everything = config.get("allocationMode") == "All"
    return {"NVIDIA_IMEX_CHANNELS": "all" if everything else "0"}


def _expect(config: _Json, kind: str, api_version: str) -> None:
    if config and (config.get("kind"), config.get("apiVersion")) != (kind, api_version):
        raise ConfigProblem(
            f'error getting opaque device configs: no kind "{config.get("kind", "")}" is '
            f'registered for version "{config.get("apiVersion", "")}": expected {kind} of '
            f"{api_version}"
        )


def _refuse(why: str) -> None:
    raise ConfigProblem(f"error applying config: {why}")


_EDITS: dict[str, _Edit] = {EXAMPLE: _gpu, NET: _net, CPU: _cpu}
