"""What a pod's spec says about its containers, read once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubarium.api.resource import Document
from kubarium.base.quantity import parse_quantity
from kubarium.node.lifecycle.events import LIVENESS, READINESS, STARTUP

INIT, SIDECAR, MAIN, EPHEMERAL = "init", "sidecar", "main", "ephemeral"
ALWAYS, ON_FAILURE, NEVER = "Always", "OnFailure", "Never"
RESTART, RESTART_ALL = "Restart", "RestartAllContainers"


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe's timing, with the API's defaults."""

    initial_delay_s: float
    period_s: float
    timeout_s: float
    success_threshold: int
    failure_threshold: int
    grace_s: float | None

    @staticmethod
    def read(spec: dict[str, Any]) -> Probe:
        return Probe(
            spec.get("initialDelaySeconds") or 0,
            spec.get("periodSeconds") or 10,
            spec.get("timeoutSeconds") or 1,
            spec.get("successThreshold") or 1,
            spec.get("failureThreshold") or 3,
            spec.get("terminationGracePeriodSeconds"),
        )


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """One container's rules."""

    name: str
    kind: str
    spec: dict[str, Any]
    restart_policy: str
    probes: dict[str, Probe]
    hooks: frozenset[str]
    stop_signal: str

    def restarts_after(self, code: int) -> bool:
        """Whether an exit with ``code`` is followed by another attempt."""
        return bool(self.action_after(code))

    def action_after(self, code: int) -> str:
        """RESTART, RESTART_ALL or "": the first rule that matches (KEP-5307), else the policy."""
        for rule in self.spec.get("restartPolicyRules") or ():
            codes = rule.get("exitCodes") or {}
            among = code in (codes.get("values") or ())
            if among == (codes.get("operator") == "In"):
                return str(rule.get("action", ""))
        if self.restart_policy == ALWAYS and (self.kind != INIT or code != 0):
            return RESTART
        return RESTART if self.restart_policy == ON_FAILURE and code != 0 else ""


def may_restart_all(pod: Document) -> bool:
    """Whether some exit of some container restarts all of them (KEP-5532)."""
    spec = pod["spec"]
    return any(
        rule.get("action") == RESTART_ALL
        for field in ("initContainers", "containers")
        for container in spec.get(field) or ()
        for rule in container.get("restartPolicyRules") or ()
    )


def container_plans(pod: Document) -> list[ContainerPlan]:
    """Init containers and sidecars in order, then the main containers."""
    spec = pod["spec"]
    policy = spec.get("restartPolicy") or ALWAYS
    first, main = spec.get("initContainers"), spec.get("containers")
    key = (id(first), id(main), policy)
    known = _PLANS.get(key)
    if known is None:
        plans = [_plan(entry, policy, init=True) for entry in first or ()]
        plans += [_plan(entry, policy, init=False) for entry in main or ()]
        if len(_PLANS) >= _PLANS_KEPT:
            _PLANS.clear()
        known = _PLANS[key] = (first, main, plans)
    return known[2] + ephemeral_plans(pod)


# Pods of one template share the lists of their containers. To be held here is what keeps another
# list from taking over an id.
_PLANS: dict[tuple[int, int, str], tuple[Any, Any, list[ContainerPlan]]] = {}
_PLANS_KEPT = 256


def ephemeral_plans(pod: Document) -> list[ContainerPlan]:
    """Containers that were added to the running pod: started once, without probes or hooks."""
    return [
        ContainerPlan(entry["name"], EPHEMERAL, entry, NEVER, {}, frozenset(), "SIGTERM")
        for entry in pod["spec"].get("ephemeralContainers") or ()
    ]


def _plan(entry: dict[str, Any], pod_policy: str, init: bool) -> ContainerPlan:
    own_policy = entry.get("restartPolicy")
    kind = MAIN if not init else SIDECAR if own_policy == ALWAYS else INIT
    lifecycle = entry.get("lifecycle") or {}
    return ContainerPlan(
        entry["name"],
        kind,
        entry,
        own_policy or pod_policy,
        {
            probe: Probe.read(entry[probe])
            for probe in (STARTUP, READINESS, LIVENESS)
            if entry.get(probe)
        },
        frozenset(hook for hook in lifecycle if lifecycle[hook] and hook != "stopSignal"),
        lifecycle.get("stopSignal") or "SIGTERM",
    )


def field_path(pod: Document, container: str) -> str:
    """Where a container stands in its pod, as events name it: ``spec.containers{main}``.

    Empty if the pod has no such container. Source: kubelet's ``container/ref.go``.
    """
    for part in ("containers", "initContainers", "ephemeralContainers"):
        if any(entry["name"] == container for entry in pod["spec"].get(part) or ()):
            return f"spec.{part}{{{container}}}"
    return ""


def priority_of(pod: Document) -> int:
    """The priority that admission has given the pod."""
    return int(pod["spec"].get("priority") or 0)


def qos_class(pod: Document) -> str:
    """Guaranteed, Burstable or BestEffort (source: ``pkg/apis/core/v1/helper/qos``)."""
    spec = pod["spec"]
    entries = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    pod_level = spec.get("resources") or {}
    if pod_level.get("requests") or pod_level.get("limits"):
        entries = [{"resources": pod_level}]
    requests_seen, guaranteed = False, True
    for entry in entries:
        resources = entry.get("resources") or {}
        limits = _positive(resources.get("limits"))
        requests = _positive(resources.get("requests"))
        requests_seen = requests_seen or bool(requests or limits)
        complete = limits.keys() >= {"cpu", "memory"}
        if not complete or any(requests.get(name, limits[name]) != limits[name] for name in limits):
            guaranteed = False
    if not requests_seen:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _positive(amounts: dict[str, Any] | None) -> dict[str, Any]:
    found = {
        name: parse_quantity((amounts or {})[name])
        for name in ("cpu", "memory")
        if name in (amounts or {})
    }
    return {name: value for name, value in found.items() if value > 0}
