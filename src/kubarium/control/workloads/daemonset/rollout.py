"""Which pods of a DaemonSet are replaced next in a rolling update. Pure.

Source: upstream ``pkg/controller/daemon/update.go``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kubarium.api.resource import Document
from kubarium.control.workloads import pods as podlib
from kubarium.control.workloads.daemonset.placement import REVISION_LABEL
from kubarium.control.workloads.deployment.rollout import scaled_value
from kubarium.runtime import writes


@dataclass(frozen=True, slots=True)
class Limits:
    """How many nodes may be without an available pod, or have two, during an update."""

    unavailable: int
    surge: int


def limits_of(daemon_set: Document, desired: int) -> Limits:
    """Percentages count of ``desired`` nodes and are rounded up; both zero would never move."""
    strategy = daemon_set["spec"].get("updateStrategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    surge = scaled_value(rolling.get("maxSurge", 0), desired, True)
    unavailable = scaled_value(rolling.get("maxUnavailable", 1), desired, True)
    return Limits(unavailable or (0 if surge else 1), surge)


def rolls(daemon_set: Document) -> bool:
    """RollingUpdate, not OnDelete."""
    strategy = daemon_set["spec"].get("updateStrategy") or {}
    return bool(strategy.get("type", "RollingUpdate") == "RollingUpdate")


def is_updated(pod: Document, revision_hash: str) -> bool:
    """Made from the present template."""
    return (pod["metadata"].get("labels") or {}).get(REVISION_LABEL) == revision_hash


@dataclass(frozen=True, slots=True)
class NodePods:
    """What is live on one node: a pod of the present template, and one of an older one."""

    new: Document | None
    old: Document | None

    @staticmethod
    def of(pods: list[Document], revision_hash: str) -> NodePods:
        """The oldest of each kind."""
        live = [pod for pod in pods if podlib.is_active(pod)]
        live.sort(key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["uid"]))
        new = [pod for pod in live if is_updated(pod, revision_hash)]
        old = [pod for pod in live if not is_updated(pod, revision_hash)]
        return NodePods(new[0] if new else None, old[0] if old else None)


@dataclass(frozen=True, slots=True)
class Step:
    """What a rolling update does now: old pods to delete, nodes to get a second pod."""

    delete: list[Document]
    create: list[str]


def next_step(
    by_node: Mapping[str, list[Document]],
    wanted: Mapping[str, bool],
    limits: Limits,
    revision_hash: str,
    available: Callable[[Document], bool],
) -> Step:
    """``wanted``: whether a node should run the daemon."""
    pods = {
        node: NodePods.of(by_node.get(node, []), revision_hash)
        for node, should_run in wanted.items()
        if should_run
    }
    if limits.surge:
        return _surge(pods, limits.surge, available)
    return _replace(pods, by_node, limits.unavailable, available)


def _replace(
    pods: Mapping[str, NodePods],
    by_node: Mapping[str, list[Document]],
    limit: int,
    available: Callable[[Document], bool],
) -> Step:
    """Old pods that serve nobody go at once, others as far as ``limit`` allows."""
    unavailable = 0
    useless: list[Document] = []
    candidates: list[Document] = []
    for node, here in pods.items():
        if here.new is not None and here.old is None:
            unavailable += not available(here.new)
        elif here.old is None or here.new is not None or _leaving(by_node.get(node, [])):
            unavailable += 1
        elif available(here.old):
            candidates.append(here.old)
        else:
            unavailable += 1
            useless.append(here.old)
    return Step(useless + candidates[: max(limit - unavailable, 0)], [])


def _surge(pods: Mapping[str, NodePods], limit: int, available: Callable[[Document], bool]) -> Step:
    """New pods come beside old ones, which go once the new one is available."""
    delete: list[Document] = []
    useless: list[str] = []
    candidates: list[str] = []
    surging = 0
    for node, here in pods.items():
        if here.old is None:
            continue
        if here.new is None:
            (candidates if available(here.old) else useless).append(node)
        elif available(here.new):
            delete.append(here.old)
        else:
            surging += 1
    return Step(delete, useless + candidates[: max(limit - surging, 0)])


def _leaving(pods: list[Document]) -> bool:
    return any(writes.is_terminating(pod) for pod in pods)
