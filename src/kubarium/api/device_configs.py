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
    _strict(config, _EXAMPLE_GPU, "GpuConfig")
    sharing = config.get("sharing")
    if sharing is None:
        sharing = {"strategy": TIME_SLICING}
    strategy = sharing.get("strategy") or ""
    slicing, parts = sharing.get("timeSlicingConfig"), sharing.get("spacePartitioningConfig")
    if strategy == TIME_SLICING:
        if parts is not None:
            raise ConfigRefused(
                f"cannot use SpacePartitioningConfig with the '{strategy}' strategy"
            )
        interval = "Default" if slicing is None else slicing.get("interval") or ""
        if interval not in INTERVALS:
            raise ConfigRefused(f"unknown time-slice interval: {interval}")
        return Sharing(strategy, interval)
    if strategy == SPACE_PARTITIONING:
        if slicing is not None:
            raise ConfigRefused(f"cannot use TimeSlicingConfig with the '{strategy}' strategy")
        count = 1 if parts is None else parts.get("partitionCount") or 0
        if count < 0:
            raise ConfigRefused(f"invalid partition count: {count}")
        return Sharing(strategy, partitions=count)
    raise ConfigRefused(f"unknown GPU sharing strategy: {strategy}")


def example_net(config: _Json) -> dict[str, int]:
    """The example driver's NetConfig: bits of burst by direction, where any are given."""
    _expect(config, "net.resource.example.com/v1alpha1", "NetConfig")
    _strict(config, _EXAMPLE_NET, "NetConfig")
    found: dict[str, int] = {}
    for way in ("ingress", "egress"):
        bits = (config.get("bwBurst") or {}).get(f"{way}Burst") or 0
        if not 0 <= bits < _MAX_BURST:
            raise ConfigRefused(f"invalid {way}Burst: burst cannot be more than 4GB")
        if bits:
            found[way] = bits
    return found


def example_cpu(config: _Json) -> None:
    """The cpu profile takes no configuration."""
    if config:
        raise ConfigRefused("configuration not allowed")


def nvidia_gpu(config: _Json) -> Sharing | None:
    """NVIDIA's GpuConfig or MigDeviceConfig, or its VfioDeviceConfig, which is for devices that
    we do not play; None where nothing is to be shared."""
    kind = str(config.get("kind", ""))
    fields = _NVIDIA_KINDS.get(kind, _NVIDIA_GPU)
    _expect(config, NVIDIA_VERSION, kind if kind in _NVIDIA_KINDS else GPU_CONFIG)
    _strict(config, fields, kind)
    sharing = config.get("sharing")
    if sharing is None:
        return None
    strategy = sharing.get("strategy") or ""
    slicing, mps = sharing.get("timeSlicingConfig"), sharing.get("mpsConfig")
    if strategy == TIME_SLICING:
        if mps is not None:
            raise ConfigRefused(f"cannot use MpsConfig with the '{strategy}' strategy")
        interval = (slicing or {}).get("interval")
        interval = "Default" if interval is None else interval
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
        if percentage < 0:
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


def pinned_limits(sharing: Sharing, devices: Sequence[str]) -> dict[str, int]:
    """Pinned memory in MiB by device, of those that one configuration is for: the default, and over
    it those of single devices, by name (uuid) or by number among ``devices``. ConfigRefused for
    a device that is not one of them."""
    limits = {} if sharing.memory_mib is None else dict.fromkeys(devices, sharing.memory_mib)
    for key, mib in sharing.memory_by_device.items():
        name = key if key in devices else _at(key, devices)
        limits[name] = mib
    return limits


def _at(key: str, devices: Sequence[str]) -> str:
    try:
        number = int(key)
    except ValueError:
        text = f"invalid device: unable to parse key as an integer: {key}"
        raise ConfigRefused(text) from None
    if not 0 <= number < len(devices):
        raise ConfigRefused(f"invalid device: invalid device index: {number}")
    return devices[number]


def compute_domain(config: _Json) -> None:
    """Parameters of a channel or a daemon of a ComputeDomain."""
    kind = str(config.get("kind", ""))
    if kind not in _COMPUTE_DOMAIN_KINDS or config.get("apiVersion") != NVIDIA_VERSION:
        raise UnknownConfig(
            f'no kind "{kind}" is registered for version "{config.get("apiVersion", "")}"'
        )
    _strict(config, _COMPUTE_DOMAIN_KINDS[kind], kind)
    if not config.get("domainID"):
        raise ConfigRefused("domainID cannot be empty")


# Fields that the drivers' decoders know, each with its kind of value or with the fields of its
# object; both drivers refuse any other. A map of quantities is a MAP.
STRING, INTEGER, BOOLEAN, QUANTITY, MAP = "string", "int", "bool", "quantity", "map"
_Fields = Mapping[str, "_Fields | str"]
_EXAMPLE_GPU: _Fields = {
    "sharing": {
        "strategy": STRING,
        "timeSlicingConfig": {"interval": STRING},
        "spacePartitioningConfig": {"partitionCount": INTEGER},
    }
}
_EXAMPLE_NET: _Fields = {"bwBurst": {"ingressBurst": INTEGER, "egressBurst": INTEGER}}
_MPS: _Fields = {
    "defaultActiveThreadPercentage": INTEGER,
    "defaultPinnedDeviceMemoryLimit": QUANTITY,
    "defaultPerDevicePinnedMemoryLimit": MAP,
    "multiUser": BOOLEAN,
}
_NVIDIA_GPU: _Fields = {
    "sharing": {"strategy": STRING, "timeSlicingConfig": {"interval": STRING}, "mpsConfig": _MPS}
}
# Instances cannot be given time slices: they share what their GPU has.
_NVIDIA_MIG: _Fields = {"sharing": {"strategy": STRING, "mpsConfig": _MPS}}
_NVIDIA_VFIO: _Fields = {"iommu": {"backendPolicy": STRING, "enableAPIDevice": BOOLEAN}}
GPU_CONFIG, MIG_CONFIG, VFIO_CONFIG = "GpuConfig", "MigDeviceConfig", "VfioDeviceConfig"
_NVIDIA_KINDS = {GPU_CONFIG: _NVIDIA_GPU, MIG_CONFIG: _NVIDIA_MIG, VFIO_CONFIG: _NVIDIA_VFIO}
_COMPUTE_DOMAIN_KINDS: Mapping[str, _Fields] = {
    "ComputeDomainChannelConfig": {"domainID": STRING, "allocationMode": STRING},
    "ComputeDomainDaemonConfig": {"domainID": STRING},
}
_IS: Mapping[str, Callable[[Any], bool]] = {
    STRING: lambda value: isinstance(value, str),
    INTEGER: lambda value: (
        isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    ),
    BOOLEAN: lambda value: isinstance(value, bool),
    # What is no amount is said with the limit that it was meant for.
    QUANTITY: lambda value: isinstance(value, str | int | float) and not isinstance(value, bool),
    MAP: lambda value: isinstance(value, Mapping) and all(map(_IS[QUANTITY], value.values())),
}


def _strict(config: _Json, fields: _Fields, kind: str, path: str = "") -> None:
    """UnknownConfig for a field that is not known, or that is of another type, as a strict decoder
    says it; null is as good as nothing."""
    for name, value in config.items():
        if not path and name in ("apiVersion", "kind"):
            continue
        if name not in fields:
            raise UnknownConfig(f'strict decoding error: unknown field "{path}{name}"')
        if value is None:
            continue
        inner = fields[name]
        if isinstance(inner, str):
            if not _IS[inner](value):
                raise _mistyped(value, kind, f"{path}{name}", inner)
        elif isinstance(value, Mapping):
            _strict(value, inner, kind, f"{path}{name}.")
        else:
            raise _mistyped(value, kind, f"{path}{name}", "object")


def _mistyped(value: Any, kind: str, path: str, wanted: str) -> UnknownConfig:
    found = {bool: "bool", str: "string", list: "array", dict: "object"}.get(type(value), "number")
    return UnknownConfig(
        f"json: cannot unmarshal {found} into Go struct field {kind}.{path} of type {wanted}"
    )


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
            continue  # another driver's, or what the API server refuses
        where = f"{path}.devices.config[{index}].opaque.parameters"
        try:
            if not parameters:
                raise UnknownConfig("Object 'Kind' is missing in '{}'")
            check(parameters)
        except UnknownConfig as problem:
            found.append(FieldError("Invalid", where, None, f"error decoding object: {problem}"))
        except ConfigRefused as problem:
            found.append(FieldError("Invalid", where, None, f"object is invalid: {problem}"))
    return found
