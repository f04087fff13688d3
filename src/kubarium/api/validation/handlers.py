"""What is run or asked in containers: probes, lifecycle hooks, signals to stop."""

from __future__ import annotations

from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.report import Report

_PROBES = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOKS = ("exec", "httpGet", "tcpSocket", "sleep")
_SCHEMES = ("HTTP", "HTTPS")
_TIMINGS = (
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
)
_WINDOWS_SIGNALS = ("SIGKILL", "SIGTERM")
_NAMED_SIGNALS = (
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT RTMAX RTMIN "
    "SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ"
)
_LINUX_SIGNALS = tuple(
    sorted(
        [f"SIG{name}" for name in _NAMED_SIGNALS.split()]
        + [f"SIGRTMIN+{count}" for count in range(1, 16)]
        + [f"SIGRTMAX-{count}" for count in range(1, 15)]
    )
)


def check_lifecycle(lifecycle: Document, path: Path, spec: Document, report: Report) -> None:
    """Hooks and the signal to stop, in a pod of this spec."""
    grace = spec.get("terminationGracePeriodSeconds")
    for hook in ("postStart", "preStop"):
        if lifecycle.get(hook) is not None:
            _check_handler(lifecycle[hook], at(path, hook), _HOOKS, report, grace)
    signal = lifecycle.get("stopSignal")
    if signal is not None:
        _check_signal(signal, at(path, "stopSignal"), spec.get("os"), report)


def _check_signal(signal: str, path: Path, system: Document | None, report: Report) -> None:
    if system is None:
        report.forbidden(path, "may not be set for containers with empty `spec.os.name`")
        return
    signals = {"linux": _LINUX_SIGNALS, "windows": _WINDOWS_SIGNALS}.get(system.get("name", ""))
    if signals is not None and signal not in signals:
        report.not_supported(path, signal, signals)


def check_probes(container: Document, path: Path, report: Report) -> None:
    """Liveness, readiness and startup probes."""
    for field in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(field)
        if probe is None:
            continue
        place = at(path, field)
        _check_handler(probe, place, _PROBES, report, None)
        for timing in _TIMINGS:
            report.not_negative(at(place, timing), probe.get(timing))
        grace = probe.get("terminationGracePeriodSeconds")
        spot = at(place, "terminationGracePeriodSeconds")
        if grace is not None and grace <= 0:
            report.invalid(spot, grace, "must be greater than 0")
        if field == "readinessProbe":
            if grace is not None:
                report.invalid(spot, grace, "must not be set for readinessProbes")
        elif probe.get("successThreshold") not in (None, 1):
            report.invalid(at(place, "successThreshold"), probe["successThreshold"], "must be 1")


def _check_handler(
    handler: Document, path: Path, kinds: tuple[str, ...], report: Report, grace: int | None
) -> None:
    given = [kind for kind in kinds if handler.get(kind) is not None]
    if not given:
        report.required(path, "must specify a handler type")
        return
    for extra in given[1:]:
        report.forbidden(at(path, extra), "may not specify more than 1 handler type")
    kind = given[0]
    place, action = at(path, kind), handler[kind]
    if kind == "exec":
        if not action.get("command"):
            report.required(at(place, "command"))
    elif kind == "httpGet":
        _check_http(action, place, report)
    elif kind == "tcpSocket" or kind == "grpc":
        _check_port(action.get("port"), at(place, "port"), report)
    else:
        seconds = action.get("seconds") or 0
        if grace is not None and not 0 <= seconds <= grace:
            detail = f"must be non-negative and less than terminationGracePeriodSeconds ({grace})"
            report.invalid(place, seconds, detail)


def _check_http(action: Document, path: Path, report: Report) -> None:
    if not action.get("path"):
        report.required(at(path, "path"))
    _check_port(action.get("port"), at(path, "port"), report)
    scheme = action.get("scheme") or ""
    if scheme not in _SCHEMES:
        report.not_supported(at(path, "scheme"), scheme, _SCHEMES)
    for header in action.get("httpHeaders") or ():
        report.format(at(path, "httpHeaders"), header.get("name") or "", formats.http_header_name)


def _check_port(port: Any, path: Path, report: Report) -> None:
    """A number or a name."""
    if isinstance(port, str):
        report.format(path, port, formats.port_name)
        return
    for complaint in formats.port_number(port or 0):
        report.invalid(path, port or 0, complaint)
