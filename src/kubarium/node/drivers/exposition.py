"""Readings of devices in Prometheus' format, under two vocabularies.

DCGM's field names with dcgm-exporter's labels (``etc/default-counters.csv``,
``internal/pkg/rendermetrics``; with its DRA labels), which dashboards of GPU clusters read, and
OpenTelemetry's hardware metrics (semantic conventions ``hardware/gpu``, ``common``,
``temperature``) in their Prometheus form. A device that several containers share has one DCGM
series for each of them, and one of OpenTelemetry's. DCGM knows GPUs and GPU instances: compute
instances of one GPU instance share its series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kubarium.node.drivers.health import HEALTHY, UNHEALTHY
from kubarium.node.drivers.readings import Holder, Reading

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MIB = 1024 * 1024
_NOBODY = Holder("", "", "")

_Value = Callable[[Reading], float | None]

_DCGM: tuple[tuple[str, str, _Value], ...] = (
    ("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz).", lambda r: r.sm_clock_mhz),
    ("DCGM_FI_DEV_MEM_CLOCK", "Memory clock frequency (in MHz).", lambda r: r.memory_clock_mhz),
    ("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", lambda r: r.temperature_c),
    ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", lambda r: r.power_w),
    ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", lambda r: r.utilization),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", "Memory utilization (in %).", lambda r: r.memory_utilization),
    (
        "DCGM_FI_DEV_XID_ERRORS",
        "Value of the last XID error encountered.",
        lambda r: float(r.xid) if r.uuid.startswith(("GPU-", "MIG-")) else None,
    ),
    ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).", lambda r: _free_mib(r)),
    (
        "DCGM_FI_DEV_FB_USED",
        "Framebuffer memory used (in MiB).",
        lambda r: None if r.memory_used is None else r.memory_used // _MIB,
    ),
)
_DCGM_LABELS = (
    "gpu", "UUID", "pci_bus_id", "device", "modelName", "GPU_I_PROFILE", "GPU_I_ID", "Hostname",
    "DCGM_FI_DRIVER_VERSION", "namespace", "pod", "container",
    "dra_claim_name", "dra_claim_namespace", "dra_driver_name", "dra_pool_name", "dra_device_name",
    "dra_mig_profile", "dra_mig_device_uuid",
)  # fmt: skip

_HW: tuple[tuple[str, str, dict[str, str], _Value], ...] = (
    (
        "hw_gpu_utilization_ratio",
        "Fraction of time spent in a specific task.",
        {"hw_gpu_task": "general"},
        lambda r: None if r.utilization is None else r.utilization / 100,
    ),
    ("hw_gpu_memory_limit_bytes", "Size of the GPU memory.", {}, lambda r: r.memory_total),
    ("hw_gpu_memory_usage_bytes", "GPU memory used.", {}, lambda r: r.memory_used),
    (
        "hw_gpu_memory_utilization_ratio",
        "Fraction of GPU memory used.",
        {},
        lambda r: _memory_ratio(r),
    ),
    ("hw_power_watts", "Instantaneous power consumed by the component.", {}, lambda r: r.power_w),
    (
        "hw_temperature_celsius",
        "Temperature in degrees Celsius.",
        {},
        lambda r: r.temperature_c,
    ),
)
_HW_LABELS = (
    "hw_id", "hw_type", "hw_name", "hw_model", "hw_vendor", "hw_driver_version", "hw_parent",
    "host_name",
)  # fmt: skip
_STATES = ("ok", "degraded", "failed", "predicted_failure")


def _free_mib(reading: Reading) -> float | None:
    if reading.memory_total is None or reading.memory_used is None:
        return None
    return (reading.memory_total - reading.memory_used) // _MIB


def _memory_ratio(reading: Reading) -> float | None:
    if not reading.memory_total or reading.memory_used is None:
        return None
    return reading.memory_used / reading.memory_total


def exposition(node: str, readings: Sequence[Reading]) -> bytes:
    """The text that Prometheus scrapes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Readings(node, readings))
    return generate_latest(registry)


class _Readings(Collector):
    def __init__(self, node: str, readings: Sequence[Reading]) -> None:
        self._node = node
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        nvidia = [r for r in self._readings if r.uuid.startswith(("GPU-", "MIG-"))]
        yield from _filled(self._dcgm(nvidia))
        yield from _filled(self._hw())

    def _dcgm(self, readings: Sequence[Reading]) -> Iterator[Metric]:
        for name, text, value in _DCGM:
            family = GaugeMetricFamily(name, text, labels=_DCGM_LABELS)
            for labels, found in self._series(readings, value).items():
                family.add_metric(labels, found)
            yield family

    def _series(self, readings: Sequence[Reading], value: _Value) -> dict[tuple[str, ...], float]:
        """Values by labels."""
        series: dict[tuple[str, ...], float] = {}
        for reading in readings:
            found = value(reading)
            if found is not None:
                for holder in reading.holders or (_NOBODY,):
                    series.setdefault(_dcgm_labels(self._node, reading, holder), found)
        return series

    def _hw(self) -> Iterator[Metric]:
        for name, text, extra, value in _HW:
            family = GaugeMetricFamily(name, text, labels=(*_HW_LABELS, *extra))
            for reading in self._readings:
                found = value(reading)
                if found is not None:
                    labels = [*_hw_labels(self._node, reading), *extra.values()]
                    family.add_metric(labels, float(found))
            yield family
        status = GaugeMetricFamily(
            "hw_status",
            "Operational status: 1 (true) or 0 (false) for each of the possible states.",
            labels=(*_HW_LABELS, "hw_state"),
        )
        for reading in self._readings:
            for state in _STATES:
                labels = [*_hw_labels(self._node, reading), state]
                status.add_metric(labels, float(state == _state(reading)))
        yield status
        errors = CounterMetricFamily(
            "hw_errors",
            "Number of errors encountered by the component.",
            labels=(*_HW_LABELS, "error_type"),
        )
        for reading in self._readings:
            if reading.xid:
                errors.add_metric([*_hw_labels(self._node, reading), f"xid_{reading.xid}"], 1)
        yield errors


def _filled(families: Iterable[Metric]) -> Iterator[Metric]:
    return (family for family in families if family.samples)


def _state(reading: Reading) -> str:
    if reading.state == UNHEALTHY:
        return "failed"
    return "ok" if reading.state == HEALTHY and not reading.xid else "degraded"


def _dcgm_labels(node: str, reading: Reading, holder: Holder) -> tuple[str, ...]:
    claimed = bool(holder.claim)
    part = claimed and bool(reading.parent)
    return (
        str(reading.number),
        reading.parent or reading.uuid,
        _bus_id(reading.pci_bus_id),
        f"nvidia{reading.number}",
        reading.model,
        reading.mig_profile,
        reading.mig_instance,
        node,
        reading.driver_version,
        holder.namespace,
        holder.pod,
        holder.container,
        holder.claim,
        holder.namespace if claimed else "",
        reading.driver if claimed else "",
        reading.pool if claimed else "",
        (holder.device or reading.device) if claimed else "",
        reading.mig_profile if part else "",
        reading.uuid if part else "",
    )


def _bus_id(text: str) -> str:
    """The kernel's 0000:1b:00.0 as NVML and DCGM write it, 00000000:1B:00.0."""
    domain, colon, rest = text.partition(":")
    return f"{domain:0>8}{colon}{rest}".upper() if colon else text


def _hw_labels(node: str, reading: Reading) -> list[str]:
    return [
        reading.uuid,
        "gpu",
        reading.device,
        reading.model,
        "NVIDIA" if reading.uuid.startswith(("GPU-", "MIG-")) else "",
        reading.driver_version,
        reading.parent,
        node,
    ]
