"""Topology spread from documents, against upstream's rules read once more: nothing shared.

minDomains, matchLabelKeys and both inclusion policies; for single pods, pods of a DaemonSet, gangs
and preemption. Source: podtopologyspread/filtering.go (calPreFilterState, Filter, RemovePod).
"""

from __future__ import annotations

import itertools
from random import Random

from hypothesis import event, given, settings
from hypothesis import strategies as st

from kubarium.api.kinds import NODES, POD_GROUPS, PODS
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import QueueItem
from kubarium.view.cluster import ClusterView

HOST = "kubernetes.io/hostname"
KEYS = ("zone", "rack", HOST)
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
TAINT = {"key": "dedicated", "value": "batch", "effect": "NoSchedule"}
# What the DaemonSet controller lets its pods tolerate, as far as nodes here are tainted.
DAEMON = [
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"},
]
checked = settings(deadline=None, max_examples=250)


# The rules, plainly


def matches(selector, labels):
    """A LabelSelector; None selects nothing."""
    if selector is None:
        return False
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    return all(holds(one, labels) for one in selector.get("matchExpressions") or ())


def holds(one, labels):
    key, values = one["key"], one.get("values") or ()
    return {
        "In": labels.get(key) in values and key in labels,
        "NotIn": labels.get(key) not in values or key not in labels,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }[one["operator"]]


def selector_of(constraint, labels):
    """With a clause for each key of matchLabelKeys that the pod has."""
    selector = constraint.get("labelSelector")
    if selector is None:
        return None
    more = [
        {"key": key, "operator": "In", "values": [labels[key]]}
        for key in constraint.get("matchLabelKeys") or ()
        if key in labels
    ]
    return {**selector, "matchExpressions": [*(selector.get("matchExpressions") or ()), *more]}


def is_empty(selector):
    return not selector.get("matchLabels") and not selector.get("matchExpressions")


def tolerates(pod, taint):
    for one in pod["spec"].get("tolerations") or ():
        same = one.get("key") in (None, taint["key"])
        value = one.get("operator") == "Exists" or one.get("value") == taint.get("value")
        if same and value and one.get("effect") in (None, taint["effect"]):
            return True
    return False


def tolerated(pod, node):
    taints = node["spec"].get("taints") or ()
    hard = [t for t in taints if t["effect"] in ("NoSchedule", "NoExecute")]
    return all(tolerates(pod, taint) for taint in hard)


def affine(pod, node):
    labels, spec = node["metadata"]["labels"], pod["spec"]
    if any(labels.get(k) != v for k, v in (spec.get("nodeSelector") or {}).items()):
        return False
    wanted = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED)
    if wanted is None:
        return True
    fields = {"metadata.name": node["metadata"]["name"]}
    return any(
        all(holds(one, labels) for one in term.get("matchExpressions") or ())
        and all(holds(one, fields) for one in term.get("matchFields") or ())
        for term in wanted["nodeSelectorTerms"]
    )


def there(pods, node):
    """The pods that hold something of the node."""
    name = node["metadata"]["name"]
    return [
        p
        for p in pods
        if p["spec"].get("nodeName") == name and p["status"]["phase"] not in ("Succeeded", "Failed")
    ]


def spread(pod, node, nodes, pods):
    """Whether PodTopologySpread lets the pod onto the node."""
    own, namespace = pod["metadata"]["labels"], pod["metadata"]["namespace"]
    given = pod["spec"].get("topologySpreadConstraints") or ()
    hard = [c for c in given if c["whenUnsatisfiable"] == "DoNotSchedule"]
    for constraint in hard:
        key, selector = constraint["topologyKey"], selector_of(constraint, own)
        if key not in node["metadata"]["labels"]:
            return False
        domains = {}
        for other in nodes:
            labels = other["metadata"]["labels"]
            if any(c["topologyKey"] not in labels for c in hard):
                continue
            if constraint.get("nodeAffinityPolicy", "Honor") == "Honor" and not affine(pod, other):
                continue
            if constraint.get("nodeTaintsPolicy", "Ignore") == "Honor" and not tolerated(
                pod, other
            ):
                continue
            count = sum(
                p["metadata"]["namespace"] == namespace
                and "deletionTimestamp" not in p["metadata"]
                and matches(selector, p["metadata"]["labels"])
                for p in there(pods, other)
            )
            if selector is not None and is_empty(selector):
                count = 0
            domains[labels[key]] = domains.get(labels[key], 0) + count
        least = min(domains.values(), default=0)
        if len(domains) < (constraint.get("minDomains") or 1):
            least = 0
        here = domains.get(node["metadata"]["labels"][key], 0)
        if here + matches(selector, own) - least > constraint["maxSkew"]:
            return False
    return True


def fits(pod, node, nodes, pods):
    cordoned = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if node["spec"].get("unschedulable") and not tolerates(pod, cordoned):
        return False
    if not tolerated(pod, node) or not affine(pod, node):
        return False
    used = sum(cpu(p) for p in there(pods, node)) + cpu(pod)
    return used <= int(node["status"]["allocatable"]["cpu"]) and spread(pod, node, nodes, pods)


def cpu(pod):
    return int(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"])


def put(pod, node):
    return {**pod, "spec": {**pod["spec"], "nodeName": node["metadata"]["name"]}}


# Worlds


class Scene:
    """Drawn from a seed, so that what is rare can be made common; hypothesis picks the seed."""

    def __init__(self, seed, most_cpu=9):
        self.chance = Random(seed)
        self.most_cpu = most_cpu
        self.nodes = [self.node(f"n{i}") for i in range(self.chance.randint(1, 5))]
        self.constraints = [self.constraint() for _ in range(self.chance.randint(1, 2))]
        self.pods = [self.placed(f"old-{i}") for i in range(self.chance.randint(0, 8))]

    def one(self, *options):
        return self.chance.choice(options)

    def maybe(self, share=0.3):
        return self.chance.random() < share

    def node(self, name):
        labels = {"zone": self.one("x", "y", "z"), "rack": self.one("a", "b"), HOST: name}
        labels |= {"disk": "ssd"} if self.maybe(0.6) else {}
        if self.maybe(0.15):
            del labels[self.one(*KEYS)]
        spec = {"taints": [TAINT]} if self.maybe() else {}
        spec |= {"unschedulable": True} if self.maybe(0.15) else {}
        amounts = {"cpu": str(self.chance.randint(1, self.most_cpu)), "pods": "20"}
        metadata = {"name": name, "labels": labels}
        return {"metadata": metadata, "spec": spec, "status": {"allocatable": amounts}}

    def selector(self):
        return self.one(
            {"matchLabels": {"app": "a"}},
            {"matchLabels": {"app": "a"}},
            {"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]},
            {"matchExpressions": [{"key": "version", "operator": "Exists"}]},
            {},
            None,
        )

    def constraint(self):
        hard, selector = self.maybe(0.85), self.selector()
        found = {
            "topologyKey": self.one(*KEYS),
            "maxSkew": self.chance.randint(1, 2),
            "whenUnsatisfiable": "DoNotSchedule" if hard else "ScheduleAnyway",
        }
        found |= {} if selector is None else {"labelSelector": selector}
        if selector is not None and self.maybe(0.4):
            found["matchLabelKeys"] = ["version", "absent"]
        if hard and self.maybe(0.5):
            found["minDomains"] = self.chance.randint(1, 4)
        for policy in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            if self.maybe(0.6):
                found[policy] = self.one("Honor", "Ignore")
        return found

    def pod(self, name, priority=0, **more):
        labels = {"app": self.one("a", "a", "b")}
        labels |= {"version": self.one("1", "2")} if self.maybe(0.8) else {}
        requests = {"requests": {"cpu": str(self.chance.randint(1, 2))}}
        spec = {"containers": [{"name": "main", "resources": requests}], "priority": priority}
        if self.maybe(0.8):
            spec["topologySpreadConstraints"] = self.constraints
        spec |= {"nodeSelector": {"disk": "ssd"}} if self.maybe() else {}
        spec |= (
            {"tolerations": [{"key": "dedicated", "operator": "Exists"}]} if self.maybe() else {}
        )
        namespace = "other" if self.maybe(0.15) and name.startswith("old") else "ns"
        metadata = {"name": name, "namespace": namespace, "uid": name, "labels": labels}
        return {
            "kind": "Pod",
            "metadata": metadata,
            "spec": spec | more,
            "status": {"phase": "Pending"},
        }

    def placed(self, name):
        found = put(self.pod(name), self.one(*self.nodes))
        found["status"]["phase"] = self.one("Running", "Running", "Running", "Pending", "Succeeded")
        if self.maybe(0.1):
            found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return found

    def for_daemon(self, pod):
        """The pod as a DaemonSet's controller makes it for one node."""
        name = self.one(*self.nodes)["metadata"]["name"]
        only = [{"key": "metadata.name", "operator": "In", "values": [name]}]
        terms = {"nodeSelectorTerms": [{"matchFields": only}]}
        spec = pod["spec"] | {"affinity": {"nodeAffinity": {REQUIRED: terms}}}
        spec["tolerations"] = [*spec.get("tolerations", ()), *DAEMON]
        return pod | {"spec": spec}

    def view(self, *more):
        """The engine's, with one node looked at after the other."""
        view = ClusterView.of({NODES: self.nodes, PODS: [*self.pods, *more]})
        assert not view.unreadable
        return view


def only(snapshot, node):
    mask = snapshot.alive & False
    mask[snapshot.rows[node["metadata"]["name"]]] = True
    return mask


seeds = st.integers(0, 2**32)


@checked
@given(seeds, st.booleans())
def test_a_pod_fits_on_exactly_the_nodes_that_the_rules_name(seed, daemon):
    scene = Scene(seed)
    pod = scene.pod("new")
    pod = scene.for_daemon(pod) if daemon else pod
    view = scene.view(pod)
    placer, row = Placer(view.snapshot), view.pod(pod)
    for node in scene.nodes:
        expected = fits(pod, node, scene.nodes, scene.pods)
        found = placer.place(row, only(view.snapshot, node))
        assert (found is not None) == expected, node["metadata"]["name"]
        event(f"fits: {expected}")
        if found is not None:
            view.snapshot.displace(row.key)


GANG = {
    "apiVersion": "scheduling.k8s.io/v1beta1",
    "metadata": {"name": "g", "namespace": "ns", "uid": "g"},
}


def gang_world(seed, size, key, priority=0):
    """At most four nodes, the pods on them, and a gang: (scene, members, view, item)."""
    scene = Scene(seed, most_cpu=4)
    scene.nodes = scene.nodes[:4]
    names = [node["metadata"]["name"] for node in scene.nodes]
    scene.pods = [pod for pod in scene.pods if pod["spec"]["nodeName"] in names]
    group = {"schedulingGroup": {"podGroupName": "g"}}
    members = [scene.pod(f"g-{i}", priority, **group) for i in range(size)]
    spec = {"schedulingPolicy": {"gang": {"minCount": size}}, "priority": priority}
    if key:
        spec["schedulingConstraints"] = {"topology": [{"key": key}]}
    documents = {NODES: scene.nodes, PODS: [*scene.pods, *members]}
    view = ClusterView.of(documents | {POD_GROUPS: [GANG | {"spec": spec}]})
    assert not view.unreadable
    item = QueueItem(tuple(view.pod(one) for one in members), view.gang(("ns", "g")))
    return scene, members, view, item


def domains(nodes, key):
    """Where all pods of the gang may be."""
    if not key:
        return [nodes]
    labels = [node["metadata"]["labels"].get(key) for node in nodes]
    values = dict.fromkeys(value for value in labels if value is not None)
    return [[n for n in nodes if n["metadata"]["labels"].get(key) == value] for value in values]


@settings(deadline=None, max_examples=150)
@given(seeds, st.integers(1, 3), st.sampled_from(["", "", "rack"]))
def test_a_gang_that_spreads_starts_if_and_only_if_some_order_lets_it(seed, size, key):
    """One pod after the other, each counted by those that follow, as the API has it."""
    scene, members, view, item = gang_world(seed, size, key)
    [decision] = plan_cycle(Placer(view.snapshot), [item], preemption=False).decisions
    event(f"starts: {bool(decision.placements)}")
    if decision.placements:
        by_name = {node["metadata"]["name"]: node for node in scene.nodes}
        where = {p.pod.key[1]: by_name[p.node] for p in decision.placements}
        assert any(is_allowed(order, where, scene) for order in itertools.permutations(members))
        used = list(where.values())
        assert any(all(n in some for n in used) for some in domains(scene.nodes, key))
    else:
        assert decision.gang_verdict is None or not decision.gang_verdict.undecided
        assert not can_start(members, scene, scene.pods, key)


def can_start(members, scene, pods, key):
    places = domains(scene.nodes, key)
    return any(some_order(members, some, scene.nodes, pods) for some in places)


@settings(deadline=None, max_examples=150)
@given(seeds, st.integers(1, 3), st.sampled_from(["", "", "rack"]))
def test_a_gang_that_spreads_evicts_enough_if_the_end_of_all_others_is_enough(seed, size, key):
    scene, members, view, item = gang_world(seed, size, key, priority=10)
    [decision] = plan_cycle(Placer(view.snapshot), [item]).decisions
    if decision.placements:
        return
    alone = can_start(members, scene, [], key)
    event(f"alone: {alone}")
    if decision.preemption is None:
        assert not alone
        return
    gone = {victim.key for victim in decision.preemption.victims}
    assert can_start(members, scene, [p for p in scene.pods if key_of(p) not in gone], key)


def is_allowed(order, where, scene):
    pods = scene.pods
    for pod in order:
        node = where[pod["metadata"]["name"]]
        if not fits(pod, node, scene.nodes, pods):
            return False
        pods = [*pods, put(pod, node)]
    return True


def some_order(left, places, nodes, pods):
    if not left:
        return True
    return any(
        fits(pod, node, nodes, pods)
        and some_order([p for p in left if p is not pod], places, nodes, [*pods, put(pod, node)])
        for pod in left
        for node in places
    )


@checked
@given(seeds)
def test_pods_are_evicted_where_and_only_where_that_lets_the_pod_in(seed):
    """On some node without all pods there of lower priority; and victims leave enough to fit."""
    scene = Scene(seed, most_cpu=4)
    for one in scene.pods:
        one["spec"]["priority"] = scene.one(0, 0, 5, 20)
        one["metadata"].pop("deletionTimestamp", None)
    pod = scene.pod("new", priority=10)
    view = scene.view(pod)
    before = {n["metadata"]["name"]: fits(pod, n, scene.nodes, scene.pods) for n in scene.nodes}
    [decision] = plan_cycle(Placer(view.snapshot), [QueueItem((view.pod(pod),))]).decisions
    assert bool(decision.placements) == any(before.values())
    if decision.placements:
        return
    helped = [node for node in scene.nodes if fits(pod, node, scene.nodes, without(scene, node))]
    event(f"helped: {bool(helped)}")
    assert (decision.preemption is not None) == bool(helped)
    if decision.preemption is None:
        return
    [(_, name)] = decision.preemption.nominations
    [node] = [n for n in scene.nodes if n["metadata"]["name"] == name]
    gone = {victim.key for victim in decision.preemption.victims}
    left = [p for p in scene.pods if key_of(p) not in gone]
    assert gone
    assert fits(pod, node, scene.nodes, left)
    for victim in decision.preemption.victims:
        assert victim.priority < 10
        assert view.snapshot.node_of(victim.key) == name
    for key in gone if len(gone) == 1 else ():
        assert not fits(pod, node, scene.nodes, scene.pods), key


def key_of(pod):
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


def without(scene, node):
    low = [p for p in there(scene.pods, node) if p["spec"]["priority"] < 10]
    return [p for p in scene.pods if not any(p is one for one in low)]
