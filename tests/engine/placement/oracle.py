"""kube-scheduler's filters and scores read plainly: one node after the other, pods one by one.

No columns, no caches, no tallies, nothing shared with the engine but its value types. Slow, and
meant to be compared with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from kubarium.engine.model import Node, Pod
from kubarium.engine.placement.profile import Weights

MIB = 1024 * 1024
HOST = "kubernetes.io/hostname"


@dataclass
class World:
    nodes: list[Node]
    placed: list[tuple[Pod, str]] = field(default_factory=list)
    namespaces: dict = field(default_factory=dict)
    volumes: dict = field(default_factory=dict)
    limits: dict = field(default_factory=dict)

    def on(self, node: Node) -> list[Pod]:
        return [pod for pod, name in self.placed if name == node.name]

    def labels_of(self, name: str) -> dict:
        return next(dict(n.labels) for n in self.nodes if n.name == name)


# Filters


def fits(world: World, pod: Pod, node: Node) -> bool:
    return (
        plain(world, pod, node)
        and storage(world, pod, node)
        and spread(world, pod, node)
        and company(world, pod, node)
    )


def tolerated(pod: Pod, node: Node) -> bool:
    return all(
        any(t.tolerates(taint) for t in pod.shape.tolerations)
        for taint in node.taints
        if taint.effect in ("NoSchedule", "NoExecute")
    )


def affine(pod: Pod, node: Node) -> bool:
    shape = pod.shape
    return all(r.holds(node.labels.get(r.key)) for r in shape.node_selector) and (
        shape.affinity is None or any(t.matches(node.name, node.labels) for t in shape.affinity)
    )


def plain(world: World, pod: Pod, node: Node) -> bool:
    there, have = world.on(node), dict(node.allocatable)
    if node.unschedulable or not tolerated(pod, node) or not affine(pod, node):
        return False
    taken = [port for other in there for port in other.shape.ports]
    if any(mine.collides(other) for mine in pod.shape.ports for other in taken):
        return False
    if len(there) + 1 > have.get("pods", 0):
        return False
    if pod.shape.data_required and not set(pod.shape.data) <= {name for name, _ in node.data}:
        return False
    return all(
        sum(other.shape.request(name) for other in there) + amount <= have.get(name, 0)
        for name, amount in pod.shape.requests
    )


def storage(world: World, pod: Pod, node: Node) -> bool:
    there = world.on(node)
    if any(a.conflicts(b) for a in pod.disks for other in there for b in other.disks):
        return False
    for key in pod.volumes:
        claim = world.volumes[key]
        if claim.exclusive and any(key in other.volumes for other, _ in world.placed):
            return False
        if claim.terms is not None and not any(
            t.matches(node.name, node.labels) for t in claim.terms
        ):
            return False
    wanted = {world.volumes[k].attaches for k in pod.volumes} - {None}
    used = {world.volumes[k].attaches for other in there for k in other.volumes} - {None}
    for driver, most in world.limits.get(node.name, {}).items():
        new = {v for v in wanted - used if v[0] == driver}
        if new and len({v for v in used if v[0] == driver}) + len(new) > most:
            return False
    return True


def counted(world: World, pod: Pod, constraint, node: Node) -> int:
    if not constraint.selector.requirements:
        return 0
    return sum(
        other.namespace == pod.namespace
        and not other.terminating
        and constraint.selector.matches(other.labels)
        for other in world.on(node)
    )


def included(pod: Pod, constraint, node: Node) -> bool:
    return (not constraint.honor_affinity or affine(pod, node)) and (
        not constraint.honor_taints or tolerated(pod, node)
    )


def spread(world: World, pod: Pod, node: Node) -> bool:
    hard = [c for c in pod.shape.spread if c.hard]
    keys = [c.topology_key for c in hard]
    for constraint in hard:
        key = constraint.topology_key
        if key not in node.labels:
            return False
        domains: dict[str, int] = {}
        for other in world.nodes:
            if all(k in other.labels for k in keys) and included(pod, constraint, other):
                value = other.labels[key]
                domains[value] = domains.get(value, 0) + counted(world, pod, constraint, other)
        least = min(domains.values(), default=0)
        if len(domains) < constraint.min_domains:
            least = 0
        itself = constraint.selector.matches(pod.labels)
        if domains.get(node.labels[key], 0) + itself - least > constraint.max_skew:
            return False
    return True


def speaks(world: World, term, pod: Pod) -> bool:
    return term.selects(pod.namespace, pod.labels, world.namespaces.get(pod.namespace, {}))


def neighbours(world: World, node: Node, key: str) -> list[Pod]:
    """Pods on nodes with the same value of the label."""
    if key not in node.labels:
        return []
    same = {n.name for n in world.nodes if n.labels.get(key) == node.labels[key]}
    return [pod for pod, name in world.placed if name in same]


def company(world: World, pod: Pod, node: Node) -> bool:
    near = pod.shape.pod_affinity
    if near:
        if not all(t.topology_key in node.labels for t in near):
            return False

        def matches(other: Pod) -> bool:
            return all(speaks(world, t, other) for t in near)

        found = all(any(matches(o) for o in neighbours(world, node, t.topology_key)) for t in near)
        anywhere = any(
            matches(other) and t.topology_key in world.labels_of(name)
            for other, name in world.placed
            for t in near
        )
        if not found and (anywhere or not matches(pod)):
            return False
    for term in pod.shape.pod_anti_affinity:
        if any(speaks(world, term, o) for o in neighbours(world, node, term.topology_key)):
            return False
    return not any(
        speaks(world, term, pod)
        for term_key in {t.topology_key for o, _ in world.placed for t in o.shape.pod_anti_affinity}
        for other in neighbours(world, node, term_key)
        for term in other.shape.pod_anti_affinity
        if term.topology_key == term_key
    )


# Scores


def choose(world: World, pod: Pod) -> str | None:
    """The node with the highest score, the first by name of equals."""
    nodes = [node for node in world.nodes if fits(world, pod, node)]
    if not nodes:
        return None
    scores = total(world, pod, nodes)
    return min(nodes, key=lambda n: (-scores[n.name], n.name)).name


def total(world: World, pod: Pod, nodes: list[Node]) -> dict[str, int]:
    weights = Weights()
    parts = [
        (weights.NodeResourcesFit, least_allocated),
        (weights.NodeResourcesBalancedAllocation, balance),
        (weights.ImageLocality, images),
        (weights.TaintToleration, soft_taints),
        (weights.NodeAffinity, preferred_nodes),
        (weights.PodTopologySpread, soft_spread),
        (weights.InterPodAffinity, preferred_company),
        (weights.DataLocality, data),
    ]
    scores = dict.fromkeys((node.name for node in nodes), 0)
    for weight, part in parts:
        for name, score in part(world, pod, nodes).items():
            assert 0 <= score <= 100, (part.__name__, score)
            scores[name] += weight * score
    return scores


def least_allocated(world: World, pod: Pod, nodes: list[Node]) -> dict[str, int]:
    found = {}
    for node in nodes:
        have, sum_, weights = dict(node.allocatable), 0, 0
        for index, name in enumerate(("cpu", "memory")):
            capacity = have.get(name, 0)
            if not capacity:
                continue
            used = sum(o.shape.nonzero[index] for o in world.on(node)) + pod.shape.nonzero[index]
            sum_ += (capacity - used) * 100 // capacity if used <= capacity else 0
            weights += 1
        found[node.name] = sum_ // weights if weights else 0
    return found


def evenness(used: list[int], capacities: list[int]) -> int:
    shares = [min(u / c, 1.0) for u, c in zip(used, capacities, strict=True) if c]
    if len(shares) < 2:
        return 100
    return int((1 - abs(shares[0] - shares[1]) / 2) * 100)


def balance(world: World, pod: Pod, nodes: list[Node]) -> dict[str, int]:
    names = ("cpu", "memory")
    if not any(pod.shape.request(name) for name in names):
        return {}
    found = {}
    for node in nodes:
        capacities = [dict(node.allocatable).get(name, 0) for name in names]
        used = [sum(o.shape.request(name) for o in world.on(node)) for name in names]
        then = [u + pod.shape.request(name) for u, name in zip(used, names, strict=True)]
        change = evenness(then, capacities) - evenness(used, capacities)
        found[node.name] = 50 + (50 + change) // 2
    return found


def images(world: World, pod: Pod, nodes: list[Node]) -> dict[str, int]:
    if not pod.shape.images:
        return {}
    found = {}
    for node in nodes:
        sum_ = 0
        for image in pod.shape.images:
            holders = sum(image in dict(n.images) for n in world.nodes)
            if image in dict(node.images):
                sum_ += int(dict(node.images)[image] * (holders / len(world.nodes)))
        least, most = 23 * MIB, 1000 * MIB * len(pod.shape.images)
        found[node.name] = 100 * (min(max(sum_, least), most) - least) // (most - least)
    return found


def soft_taints(world: World, pod: Pod, nodes: list[Node]) -> dict[str, int]:
    tolerations = [t for t in pod.shape.tolerations if t.effect in ("", "PreferNoSchedule")]
    raw = {
        node.name: sum(
            taint.effect == "PreferNoSchedule" and not any(t.tolerates(taint) for t in tolerations)
            for taint in node.taints
        )
        for node in nodes
    }
    most = max(raw.values())
    return {name: 100 - 100 * count // most if most else 100 for name, count in raw.items()}


def preferred_nodes(world: World, pod: Pod, nodes: list[Node]) -> dict[str, int]:
    raw = {
        node.name: sum(
            p.weight for p in pod.shape.preferred if p.term.matches(node.name, node.labels)
        )
        for node in nodes
    }
    most = max(raw.values())
    return {name: 100 * count // most if most else 0 for name, count in raw.items()}


def soft_spread(world: World, pod: Pod, nodes: list[Node]) -> dict[str, int]:
    soft = [c for c in pod.shape.spread if not c.hard]
    if not soft:
        return {}
    strict = not pod.shape.spread_by_default
    keys = [c.topology_key for c in soft]
    scored = [n for n in nodes if not strict or all(k in n.labels for k in keys)]
    raw: dict[str, float] = dict.fromkeys((n.name for n in scored), 0.0)
    for constraint in soft:
        key = constraint.topology_key
        values = {n.labels.get(key, "") for n in scored}
        size = len(scored) if key == HOST else len(values)
        for node in scored:
            if key not in node.labels:
                continue
            if key == HOST:
                count = counted(world, pod, constraint, node)
            else:
                count = sum(
                    counted(world, pod, constraint, other)
                    for other in world.nodes
                    if other.labels.get(key) == node.labels[key]
                    and (not strict or all(k in other.labels for k in keys))
                    and included(pod, constraint, other)
                )
            raw[node.name] += count * math.log(size + 2) + (constraint.max_skew - 1)
    rounded = {name: math.floor(value + 0.5) for name, value in raw.items()}
    most, least = max(rounded.values(), default=0), min(rounded.values(), default=0)
    return {
        name: 100 * (most + least - value) // most if most else 100
        for name, value in rounded.items()
    }


def preferred_company(world: World, pod: Pod, nodes: list[Node]) -> dict[str, int]:
    raw = {}
    for node in nodes:
        sum_ = 0
        for wanted in pod.shape.pod_preferred:
            near = neighbours(world, node, wanted.term.topology_key)
            sum_ += wanted.weight * sum(speaks(world, wanted.term, other) for other in near)
        for other, name in world.placed:
            there = world.labels_of(name)
            terms = [(w.weight, w.term) for w in other.shape.pod_preferred]
            terms += [(1, term) for term in other.shape.pod_affinity]
            for weight, term in terms:
                key = term.topology_key
                same = key in there and there[key] == node.labels.get(key)
                sum_ += weight if same and speaks(world, term, pod) else 0
        raw[node.name] = sum_
    most, least = max(raw.values()), min(raw.values())
    if most == least:
        return {}
    return {n: int(100.0 * ((v - least) / (most - least))) for n, v in raw.items()}


def data(world: World, pod: Pod, nodes: list[Node]) -> dict[str, int]:
    sizes = {
        name: max((1, *(dict(n.data)[name] for n in world.nodes if name in dict(n.data))))
        for name in pod.shape.data
        if any(name in dict(n.data) for n in world.nodes)
    }
    if not sizes:
        return {}
    return {
        node.name: int(
            100.0
            * sum(size for name, size in sizes.items() if name in dict(node.data))
            / sum(sizes.values())
        )
        for node in nodes
    }
