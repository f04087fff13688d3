"""Opaque device configuration of the drivers that Kubarium plays: what they take, and refuse.

Rules and messages are those of kubernetes-sigs/dra-example-driver ``api/example.com/resource`` and
kubernetes-sigs/dra-driver-nvidia-gpu ``api/nvidia.com/resource/v1beta1``; both drivers check them
in an admission webhook and again when they prepare a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubarium.base.errors import FieldError, KubariumError
from kubarium.base.quantity import QuantityError, parse_quantity

TIME_SLICING, SPACE_PARTITIONING, MPS = "TimeSlicing", "SpacePartitioning", "MPS"
INTERVALS = ("Default", "Short", "Medium", "Long")
NVIDIA_VERSION = "resource.nvidia.com/v1beta1"
_MAX_BURST = 8 * (2**32 - 1)
_MIB = 1024 * 1024

_Json = Mapping[str, Any]


class ConfigRefused(KubariumError):
    """Opaque parameters that the driver does not take; the message is the driver's."""


class UnknownConfig(ConfigRefused):
    """Parameters of a kind that the driver does not know."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """How containers share a device. MPS: percent of threads, and pinned memory in MiB (of all
    devices, and of single ones by index or uuid); None is no limit."""

    strategy: str
    interval: str = ""
    partitions: int = 0
    thread_percentage: int | None = None
    memory_mib: int | None = None
    memory_by_device: Mapping[str, int] = field(default_factory=dict)


def example_gpu(config: _Json) -> Sharing:
    """The example driver's GpuConfig; time slicing is the default."""
    _expect(config, "gpu.resource.example.com/v1alpha1", "GpuConfig")
    _strict(config, _EXAMPLE_GPU)
    sharing = config.get("sharing") or {"strategy": TIME_SLICING}
    strategy = sharing.get("strategy", "")
    slicing, parts = sharing.get("timeSlicingConfig"), sharing.get("spacePartitioningConfig")
    if strategy == TIME_SLICING:
        if parts is not None:
            raise ConfigRefused(
                f"cannot use SpacePartitioningConfig with the '{strategy}' strategy"
            )
        interval = (slicing or {"interval": "Default"}).get("interval", "")
        if interval not in INTERVALS:
            raise ConfigRefused(f"unknown time-slice interval: {interval}")
        return Sharing(strategy, interval)
    if strategy == SPACE_PARTITIONING:
        if slicing is not None:
            raise ConfigRefused(f"cannot use TimeSlicingConfig with the '{strategy}' strategy")
        count = (parts or {"partitionCount": 1}).get("partitionCount", 0)
        if not isinstance(count, int) or count < 0:
            raise ConfigRefused(f"invalid partition count: {count}")
        return Sharing(strategy, partitions=count)
    raise ConfigRefused(f"unknown GPU sharing strategy: {strategy}")


def example_net(config: _Json) -> dict[str, int]:
    """The example driver's NetConfig: bits of burst by direction, where any are given."""
    _expect(config, "net.resource.example.com/v1alpha1", "NetConfig")
    found: dict[str, int] = {}
    for way in ("ingress", "egress"):
        bits = (config.get("bwBurst") or {}).get(f"{way}Burst", 0)
        if not isinstance(bits, int) or not 0 <= bits < _MAX_BURST:
            raise ConfigRefused(f"invalid {way}Burst: burst cannot be more than 4GB")
        if bits:
            found[way] = bits
    return found


def example_cpu(config: _Json) -> None:
    """The cpu profile takes no configuration."""
    if config:
        raise ConfigRefused("configuration not allowed")


def nvidia_gpu(config: _Json) -> Sharing | None:
    """NVIDIA's GpuConfig or MigDeviceConfig; None where nothing is to be shared."""
    kind = "MigDeviceConfig" if config.get("kind") == "MigDeviceConfig" else "GpuConfig"
    _expect(config, NVIDIA_VERSION, kind)
    _strict(config, _NVIDIA_GPU)
    sharing = config.get("sharing")
    if not sharing:
        return None
    strategy = sharing.get("strategy", "")
    slicing, mps = sharing.get("timeSlicingConfig"), sharing.get("mpsConfig")
    if strategy == TIME_SLICING:
        if mps is not None:
            raise ConfigRefused(f"cannot use MpsConfig with the '{strategy}' strategy")
        interval = (slicing or {"interval": "Default"}).get("interval", "Default")
        if interval not in INTERVALS:
            raise ConfigRefused(
                f"unknown time-slice interval: {interval}, supported time-slice intervals: "
                f"{', '.join(INTERVALS)}"
            )
        return Sharing(strategy, interval)
    if strategy == MPS:
        if slicing is not None:
            raise ConfigRefused(f"cannot use TimeSlicingConfig with the '{strategy}' strategy")
        return _mps(mps or {})
    raise ConfigRefused(
        f"unknown GPU sharing strategy: {strategy}, supported GPU sharing strategies: "
        f"{TIME_SLICING}, {MPS}"
    )


def _mps(config: _Json) -> Sharing:
    percentage = config.get("defaultActiveThreadPercentage")
    if percentage is not None:
        if not isinstance(percentage, int) or percentage < 0:
            raise ConfigRefused("active thread percentage must not be negative")
        if percentage > 100:
            raise ConfigRefused("active thread percentage must not be greater than 100")
    limit = config.get("defaultPinnedDeviceMemoryLimit")
    each = config.get("defaultPerDevicePinnedMemoryLimit") or {}
    return Sharing(
        MPS,
        thread_percentage=percentage,
        memory_mib=None if limit is None else _mib(limit, "default value"),
        memory_by_device={name: _mib(value, name) for name, value in each.items()},
    )


def _mib(limit: Any, name: str) -> int:
    try:
        mib = int(parse_quantity(limit)) // _MIB
    except QuantityError as error:
        raise ConfigRefused(f"invalid limit: {name}: {error}") from None
    if mib <= 0:
        raise ConfigRefused(f"invalid limit: {name} set too low: {limit}")
    return mib


def compute_domain(config: _Json) -> None:
    """Parameters of a channel or a daemon of a ComputeDomain."""
    kinds = ("ComputeDomainChannelConfig", "ComputeDomainDaemonConfig")
    kind = config.get("kind", "")
    if kind not in kinds or config.get("apiVersion") != NVIDIA_VERSION:
        raise UnknownConfig(
            f'no kind "{kind}" is registered for version "{config.get("apiVersion", "")}"'
        )
    if not config.get("domainID"):
        raise ConfigRefused("domainID cannot be empty")


# Fields that the drivers' decoders know; both refuse any other.
_Fields = Mapping[str, "_Fields | None"]
_EXAMPLE_GPU: _Fields = {
    "sharing": {
        "strategy": None,
        "timeSlicingConfig": {"interval": None},
        "spacePartitioningConfig": {"partitionCount": None},
    }
}
_NVIDIA_GPU: _Fields = {
    "sharing": {
        "strategy": None,
        "timeSlicingConfig": {"interval": None},
        "mpsConfig": {
            "defaultActiveThreadPercentage": None,
            "defaultPinnedDeviceMemoryLimit": None,
            "defaultPerDevicePinnedMemoryLimit": None,
            "multiUser": None,
        },
    }
}


def _strict(config: _Json, fields: _Fields, path: str = "") -> None:
    """UnknownConfig for a field that is not known, as a strict decoder says it."""
    for name, value in config.items():
        if not path and name in ("apiVersion", "kind"):
            continue
        if name not in fields:
            raise UnknownConfig(f'strict decoding error: unknown field "{path}{name}"')
        inner = fields[name]
        if inner is not None and isinstance(value, Mapping):
            _strict(value, inner, f"{path}{name}.")


def _expect(config: _Json, api_version: str, kind: str) -> None:
    if config and (config.get("kind"), config.get("apiVersion")) != (kind, api_version):
        raise UnknownConfig(
            f'no kind "{config.get("kind", "")}" is registered for version '
            f'"{config.get("apiVersion", "")}": expected {kind} of {api_version}'
        )


_CHECKS: dict[str, Callable[[_Json], object]] = {
    "gpu.example.com": example_gpu,
    "net.example.com": example_net,
    "cpu.example.com": example_cpu,
    "gpu.nvidia.com": nvidia_gpu,
    "compute-domain.nvidia.com": compute_domain,
}


def complaints(configs: Sequence[_Json], path: str) -> list[FieldError]:
    """What the drivers' webhooks say of a claim's ``devices.config``; other drivers' is theirs."""
    found = []
    for index, entry in enumerate(configs):
        opaque = entry.get("opaque") or {}
        check = _CHECKS.get(opaque.get("driver", ""))
        parameters = opaque.get("parameters")
        if check is None or not isinstance(parameters, Mapping):
            continue
        where = f"{path}.devices.config[{index}].opaque.parameters"
        try:
            check(parameters)
        except UnknownConfig as problem:
            found.append(FieldError("Invalid", where, None, f"error decoding object: {problem}"))
        except ConfigRefused as problem:
            found.append(FieldError("Invalid", where, None, f"object is invalid: {problem}"))
    return found
