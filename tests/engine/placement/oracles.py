"""Two independent answers to "can it start?": every assignment tried, and a constraint solver."""

from __future__ import annotations

import itertools

from kubarium.engine.plan import Leaf, Tree

from .worlds import naive_fits


def leaves_of(group):
    return [group] if isinstance(group, Leaf) else list(group.leaves())


def rules_of(group):
    return group.gang if isinstance(group, Leaf) else group.group


def starts(group, placed) -> bool:
    """Whether the group has its minimum, and all of its placed pods share its domains."""
    own = [n for leaf in leaves_of(group) for p in leaf.pods if (n := placed.get(p.key))]
    for key in rules_of(group).required_keys:
        if any(key not in n.labels for n in own) or len({n.labels[key] for n in own}) > 1:
            return False
    if isinstance(group, Leaf):
        return len(own) >= max(group.gang.min_count, 1)
    return sum(starts(child, placed) for child in group.children) >= max(group.group.min_groups, 1)


def some_assignment(cluster, tree, fits=naive_fits) -> bool:
    """Whether any assignment of pods to nodes, or to none, starts the tree."""
    pods = [pod for leaf in leaves_of(tree) for pod in leaf.pods]
    for chosen in itertools.product([None, *cluster], repeat=len(pods)):
        there = {node.name: [] for node in cluster}
        placed = {}
        for node, pod in zip(chosen, pods, strict=True):
            if node is None:
                continue
            if not fits(node, pod.shape, there[node.name]):
                break
            there[node.name].append(pod.shape)
            placed[pod.key] = node
        else:
            if _without_idle(tree, placed):
                return True
    return False


def _without_idle(group, placed) -> bool:
    """Whether the group starts when only pods of groups that start are counted."""
    if isinstance(group, Leaf):
        return starts(group, placed)
    able = [child for child in group.children if _without_idle(child, placed)]
    kept = {p.key for child in able for leaf in leaves_of(child) for p in leaf.pods}
    rest = {key: node for key, node in placed.items() if key in kept}
    shrunk = Tree(group.group, tuple(able))
    return starts(shrunk, rest) if able else False


# Work that the solver may do, in its own deterministic unit; without a limit a rare instance takes
# minutes.
SOLVER_WORK = 1.0


def solver_says(cp_model, cluster, tree) -> bool | None:
    """The same question to OR-Tools' CP-SAT; pods may differ in cpu, memory and static wishes.

    None if the solver does not know within its limit.
    """
    model = cp_model.CpModel()
    pods = [pod for leaf in leaves_of(tree) for pod in leaf.pods]
    on = {
        (pod.key, node.name): model.new_bool_var(f"{pod.key}@{node.name}")
        for pod in pods
        for node in cluster
    }
    for pod in pods:
        model.add(sum(on[pod.key, node.name] for node in cluster) <= 1)
        for node in cluster:
            if not naive_fits(node, pod.shape, []):
                model.add(on[pod.key, node.name] == 0)
    for node in cluster:
        have = dict(node.allocatable)
        model.add(sum(on[pod.key, node.name] for pod in pods) <= have.get("pods", 0))
        for name in ("cpu", "memory"):
            asked = sum(pod.shape.request(name) * on[pod.key, node.name] for pod in pods)
            model.add(asked <= have.get(name, 0))
    model.add(_started(cp_model, model, cluster, tree, on, None) == 1)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 1
    solver.parameters.max_deterministic_time = SOLVER_WORK
    status = solver.solve(model)
    if status == cp_model.UNKNOWN:
        return None
    assert status in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.INFEASIBLE)
    return status != cp_model.INFEASIBLE


def _started(cp_model, model, cluster, group, on, outer):
    """A variable that implies that the group starts; without it none of its pods is placed."""
    started = model.new_bool_var(f"started {group.key} {isinstance(group, Leaf)}")
    if outer is not None:
        model.add_implication(started, outer)
    pods = [pod for leaf in leaves_of(group) for pod in leaf.pods]
    for pod in pods:
        for node in cluster:
            model.add_implication(on[pod.key, node.name], started)
    for key in rules_of(group).required_keys:
        values = sorted({node.labels[key] for node in cluster if key in node.labels})
        chosen = {value: model.new_bool_var(f"{group.key} {key} {value}") for value in values}
        model.add(sum(chosen.values()) <= 1)
        for pod in pods:
            for node in cluster:
                here = chosen.get(node.labels.get(key))
                model.add_implication(on[pod.key, node.name], here if here is not None else 0)
    if isinstance(group, Leaf):
        placed = sum(on[pod.key, node.name] for pod in pods for node in cluster)
        model.add(placed >= max(group.gang.min_count, 1)).only_enforce_if(started)
        return started
    below = [_started(cp_model, model, cluster, child, on, started) for child in group.children]
    model.add(sum(below) >= max(group.group.min_groups, 1)).only_enforce_if(started)
    return started
