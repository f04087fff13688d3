"""Opaque device configuration of the drivers that Kubarium plays: what they take, and refuse.

Rules and messages are those of kubernetes-sigs/dra-example-driver ``api/example.com/resource`` and
kubernetes-sigs/dra-driver-nvidia-gpu ``api/nvidia.com/resource/v1beta1``; both drivers check them
in an admission webhook and again when they prepare a claim.
"""

from __future__ import annotations

import json
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
    if config:
        decode(config, EXAMPLE_GPU_KINDS)
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
    if config:
        decode(config, EXAMPLE_NET_KINDS)
    found: dict[str, int] = {}
    for way in ("ingress", "egress"):
        bits = (config.get("bwBurst") or {}).get(f"{way}Burst") or 0
        if not 0 <= bits < _MAX_BURST:
            raise ConfigRefused(f"invalid {way}Burst: burst cannot be more than 4GB")
        if bits:
            found[way] = bits
    return found


def example_cpu(config: _Json) -> None:
    """The cpu profile takes no configuration: it knows of no kind of it."""
    if config:
        decode(config, EXAMPLE_CPU_KINDS)


def nvidia_gpu(config: _Json) -> Sharing | None:
    """NVIDIA's GpuConfig or MigDeviceConfig, or its VfioDeviceConfig, which is for devices that
    we do not play; None where nothing is to be shared."""
    if config:
        _recognize(config, (GPU_CONFIG, MIG_CONFIG, VFIO_CONFIG))
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
    """Parameters of a channel or a daemon of a ComputeDomain; neither has a default domain."""
    if config:
        _recognize(config, (CHANNEL_CONFIG, DAEMON_CONFIG))
    if not config.get("domainID"):
        raise ConfigRefused("domainID cannot be empty")


def _recognize(config: _Json, kinds: Sequence[str]) -> None:
    """One decoder serves both drivers of NVIDIA's, each of which takes kinds of its own."""
    decode(config, NVIDIA_KINDS)
    if config["kind"] not in kinds:
        raise ConfigRefused("runtime object is not a recognized configuration")


def decode(config: _Json, known: Kinds) -> None:
    """UnknownConfig unless a driver's decoder takes it, whether or not what it says makes sense."""
    for name, told in (("kind", "Kind"), ("apiVersion", "apiVersion")):
        if not isinstance(config.get(name) or "", str):
            raise _mistyped(config[name], "", name, STRING)
        if not config.get(name):
            raise UnknownConfig(f"Object '{told}' is missing in '{json.dumps(config)}'")
    version, kind = config["apiVersion"], config["kind"]
    if (version, kind) not in known:
        text = f'no kind "{kind}" is registered for version "{version}"'
        wanted = " or ".join(f"{name} of {group}" for group, name in known)
        raise UnknownConfig(f"{text}: expected {wanted}" if wanted else text)
    _strict(config, known[version, kind], kind)


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
CHANNEL_CONFIG, DAEMON_CONFIG = "ComputeDomainChannelConfig", "ComputeDomainDaemonConfig"
# What each driver's decoder knows, by apiVersion and kind.
Kinds = Mapping[tuple[str, str], _Fields]
EXAMPLE_GPU_KINDS: Kinds = {("gpu.resource.example.com/v1alpha1", "GpuConfig"): _EXAMPLE_GPU}
EXAMPLE_NET_KINDS: Kinds = {("net.resource.example.com/v1alpha1", "NetConfig"): _EXAMPLE_NET}
EXAMPLE_CPU_KINDS: Kinds = {}
NVIDIA_KINDS: Kinds = {
    (NVIDIA_VERSION, GPU_CONFIG): _NVIDIA_GPU,
    (NVIDIA_VERSION, MIG_CONFIG): _NVIDIA_MIG,
    (NVIDIA_VERSION, VFIO_CONFIG): _NVIDIA_VFIO,
    (NVIDIA_VERSION, CHANNEL_CONFIG): {"domainID": STRING, "allocationMode": STRING},
    (NVIDIA_VERSION, DAEMON_CONFIG): {"domainID": STRING},
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
                decode(parameters, {})
            check(parameters)
        except UnknownConfig as problem:
            found.append(FieldError("Invalid", where, None, f"error decoding object: {problem}"))
        except ConfigRefused as problem:
            found.append(FieldError("Invalid", where, None, f"object is invalid: {problem}"))
    return found
