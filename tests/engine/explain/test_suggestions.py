"""Every suggestion, applied by hand to a fresh cluster, makes the subject fit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    ALL,
    AttributeValue,
    Capacity,
    ClaimSpec,
    Constraint,
    Device,
    DeviceClass,
    NodeResource,
    Request,
    RequestEntry,
    Slice,
)
from kubarium.engine.explain import Explainer, Subject
from kubarium.engine.explain.wishes import Clause
from kubarium.engine.model import (
    HOSTNAME_LABEL,
    Claim,
    Gang,
    HostPort,
    Node,
    Pod,
    PodPart,
    PodShape,
    PodTerm,
    Provision,
    SpreadConstraint,
    Taint,
    Toleration,
    VolumeClaim,
)
from kubarium.engine.placement.place import Placer
from kubarium.engine.selectors import LabelSelector, NodeTerm, Requirement
from kubarium.engine.snapshot import Snapshot

checked = settings(deadline=None, max_examples=400)

TAINT = Taint("dedicated", "gpu", "NoSchedule")
BAD = Taint("bad", "", "NoSchedule")
RACK_A = Requirement("rack", "In", ("a",))
DISK = Requirement("disk", "In", ("ssd",))
PORT = HostPort("0.0.0.0", "TCP", 80)
APP = LabelSelector((Requirement("app", "In", ("web",)),))
APART = PodTerm("rack", APP, ("ns",))
EVEN = SpreadConstraint("rack", 1, True, APP)
FEATURE = "VolumeBindMountOptions"
ZONE = "topology.kubernetes.io/zone"
ZONE_Z = Requirement(ZONE, "In", ("z",))


def selects(expression, driver, device):
    """``a && b`` of ``any`` and ``name=value`` about attributes."""
    return all(part == "any" or _equals(part, device) for part in expression.split(" && "))


def _equals(part, device):
    name, _, value = part.partition("=")
    found = device.attributes.get(name)
    return found is not None and value in found.values


def clauses(expression):
    return [_clause(part) for part in expression.split(" && ")]


def _clause(part):
    name, equals, value = part.partition("=")
    return Clause(part, name, False, "==", value) if equals else Clause(part)


def reads(expression):
    parts = expression.split(" && ")
    return frozenset(part.partition("=")[0] for part in parts if part != "any")


@dataclass
class World:
    """A cluster that can be built again with one thing changed."""

    nodes: list[Node]
    devices: dict[str, list[tuple[str, str, bool]]]  # (kind, numa, tainted) by node
    shape: PodShape
    gang_size: int = 0
    spec: ClaimSpec | None = None
    topology: str = ""
    holders: list[Pod] = field(default_factory=list)
    added: int = 0
    min_count: int = 0
    volume: VolumeClaim | None = None
    # How many volumes of the driver each node can attach; None is any number.
    limit: int | None = None
    # CPU that a pod costs its node for each device that it is given.
    cost: int = 0

    def placer(self):
        snapshot = Snapshot(Inventory(selects, reads=reads))
        snapshot.inventory.set_class(DeviceClass("gpu", ("any",)))
        for node in self.nodes:
            snapshot.set_node(node)
            made = tuple(
                Device(
                    f"g{i}",
                    {
                        "kind": AttributeValue("string", frozenset((kind,))),
                        "numa": AttributeValue("string", frozenset((numa,))),
                        "uuid": AttributeValue("string", frozenset((f"{node.name}-{i}",))),
                    },
                    {"memory": Capacity(8)},
                    taints=(BAD,) if tainted else (),
                    node_resources=(NodeResource("cpu", per_pod=self.cost),) if self.cost else (),
                )
                for i, (kind, numa, tainted) in enumerate(self.devices.get(node.name, ()))
            )
            if made:
                item = Slice(f"s-{node.name}", "d", node.name, 1, 1, made, node_name=node.name)
                snapshot.inventory.set_slice(item)
        if self.volume is not None:
            snapshot.volumes[self.volume.key] = self.volume
        for i in range(2):
            held = ("ns", f"held-{i}")
            snapshot.volumes[held] = VolumeClaim(held, attaches=("csi", f"held-{i}"))
        for node in self.nodes if self.limit is not None else ():
            snapshot.volume_limits[node.name] = {"csi": self.limit}
        for pod in self.holders:
            snapshot.place(pod, self.nodes[0].name)
        if self.spec is not None:
            for pod in self.subject().pods:
                snapshot.claims[pod.claims[0]] = Claim(pod.claims[0], self.spec)
        return Placer(snapshot)

    def subject(self):
        size = self.gang_size
        gang = Gang(("ns", "gang"), self.min_count or size, self.topology) if size else None
        pods = tuple(
            Pod(
                ("ns", f"p{i}"),
                self.shape,
                labels={"app": "web"},
                gang=gang.key if gang else None,
                claims=(("ns", f"c{i}"),) if self.spec is not None else (),
                parts=(PodPart("main", self.shape.requests, (("ns", f"c{i}"),)),)
                if self.spec is not None
                else (),
                volumes=(self.volume.key,) if self.volume is not None else (),
            )
            for i in range(size or 1)
        )
        return Subject(pods, gang)

    def copy(self):
        return replace(
            self,
            nodes=list(self.nodes),
            devices={name: list(made) for name, made in self.devices.items()},
            holders=list(self.holders),
        )

    def fits(self):
        return Explainer(self.placer()).fits(self.subject())

    def apply(self, suggestion):
        """Do what the suggestion says, and nothing else."""
        at = next((i for i, n in enumerate(self.nodes) if n.name == suggestion.node), -1)
        match suggestion.kind:
            case "combination":
                for part in suggestion.parts:
                    self.apply(part)
            case "add-devices":
                model = self._device_that_matches()
                self.devices.setdefault(suggestion.node, []).extend([model] * suggestion.amount)
            case "add-resource":
                self._enlarge(at, suggestion)
            case "add-node":
                node = self.nodes[at]
                for _ in range(suggestion.amount):
                    self.added += 1
                    name = f"new-{self.added}"
                    labels = {**node.labels}
                    if HOSTNAME_LABEL in labels:
                        labels[HOSTNAME_LABEL] = name
                    self.nodes.append(replace(node, name=name, labels=labels, data=()))
                    self.devices[name] = list(self.devices.get(node.name, ()))
            case "add-node-at" | "restore-node":
                self._add_node_at(at, suggestion)
            case "upgrade-node" | "upgrade-nodes":
                one = suggestion.kind == "upgrade-node"
                names = [suggestion.node] if one else suggestion.subject.split(",")
                self.nodes = [
                    replace(n, features=n.features | {FEATURE}) if n.name in names else n
                    for n in self.nodes
                ]
            case "cache-data":
                names = [suggestion.node] if suggestion.node else suggestion.subject.split(",")
                data = tuple((name, 0) for name in self.shape.data)
                self.nodes = [
                    replace(n, data=n.data + data) if n.name in names else n for n in self.nodes
                ]
            case "move-volume":
                self.volume = replace(self.volume, terms=None, zones=())
            case "add-volume":
                have = self.volume.choices or ()
                self.volume = replace(self.volume, choices=(*have, ("new", None)))
            case "add-storage":
                made = Provision(self.volume.provision.terms if self.volume.provision else None)
                self.volume = replace(self.volume, provision=made)
            case "uncordon":
                self.nodes[at] = replace(self.nodes[at], unschedulable=False)
            case "lower-min-count":
                self.min_count = suggestion.amount
            case "remove-topology":
                self.topology = ""
            case "free-pod" | "free-pods":
                gone = suggestion.subject.split(",")
                self.holders = [p for p in self.holders if "/".join(p.key) not in gone]
            case _:
                self._relax(suggestion)

    def _add_node_at(self, at, suggestion):
        """A node like the one named, with the labels (or the name) that the suggestion gives."""
        model = self.nodes[at]
        self.added += 1
        name, labels = f"new-{self.added}", dict(model.labels)
        if suggestion.kind == "restore-node":
            name = suggestion.subject
            labels[HOSTNAME_LABEL] = name
        else:
            labels |= dict(pair.split("=") for pair in suggestion.subject.split(", "))
        fresh = replace(model, name=name, labels=labels, unschedulable=False, data=())
        self.nodes.append(fresh)
        self.devices[name] = list(self.devices.get(model.name, ()))

    def _enlarge(self, at, suggestion):
        have = dict(self.nodes[at].allocatable)
        for part in suggestion.text.partition(" on node ")[0].split(" and "):
            amount, _, resource = part.partition(" more ")
            if resource == "cpu":
                amount = amount.removesuffix("m") if "m" in amount else int(amount) * 1000
            have[resource] = have.get(resource, 0) + int(amount)
        self.nodes[at] = replace(self.nodes[at], allocatable=tuple(sorted(have.items())))

    def _device_that_matches(self):
        request = self.spec.requests[0].alternatives[0]
        return next(
            (kind, numa, False)
            for made in self.devices.values()
            for kind, numa, _ in made
            if all(self._accepts(s, kind, numa) for s in request.selectors)
        )

    @staticmethod
    def _accepts(selector, kind, numa):
        return all(p in ("any", f"kind={kind}", f"numa={numa}") for p in selector.split(" && "))

    def _relax(self, suggestion):
        shape = self.shape
        match suggestion.kind:
            case "tolerate-taint":
                extra = Toleration(TAINT.key, "Equal", TAINT.value, TAINT.effect)
                self.shape = replace(shape, tolerations=(*shape.tolerations, extra))
            case "remove-selector":
                left = tuple(c for c in shape.node_selector if str(c) != suggestion.subject)
                self.shape = replace(shape, node_selector=left)
            case "remove-affinity":
                self.shape = replace(shape, affinity=None)
            case "remove-affinity-clause":
                terms = tuple(
                    NodeTerm(tuple(c for c in t.labels if str(c) != suggestion.subject))
                    for t in shape.affinity
                )
                self.shape = replace(shape, affinity=terms)
            case "remove-port":
                self.shape = replace(shape, ports=())
            case "raise-skew":
                [one] = shape.spread
                self.shape = replace(shape, spread=(replace(one, max_skew=suggestion.amount),))
            case "lower-min-domains":
                [one] = shape.spread
                self.shape = replace(shape, spread=(replace(one, min_domains=suggestion.amount),))
            case "remove-feature":
                self.shape = replace(shape, features=())
            case "prefer-data":
                self.shape = replace(shape, data_required=False)
            case "remove-spread":
                self.shape = replace(shape, spread=())
            case "remove-pod-anti-affinity":
                self.shape = replace(shape, pod_anti_affinity=())
            case "lower-request":
                wanted = {**dict(shape.requests), suggestion.subject: suggestion.amount}
                self.shape = replace(shape, requests=tuple(sorted(wanted.items())))
            case other:
                self._relax_claim(other, suggestion)

    def _relax_claim(self, kind, suggestion):
        [entry] = self.spec.requests
        [request] = entry.alternatives
        constraints = self.spec.constraints
        match kind:
            case "lower-count":
                request = replace(request, count=suggestion.amount)
            case "count-devices":
                request = replace(request, mode="ExactCount", count=suggestion.amount)
            case "remove-constraint":
                constraints = ()
            case "tolerate-device-taint":
                request = replace(request, tolerations=(Toleration("bad", "Exists"),))
            case "change-device-selector":
                constant = suggestion.text.rpartition(" to ")[2]
                new = f"{suggestion.subject.partition('=')[0]}={constant}"
                request = replace(
                    request,
                    selectors=tuple(s.replace(suggestion.subject, new) for s in request.selectors),
                )
            case "remove-device-selector":
                parts = [p for s in request.selectors for p in s.split(" && ")]
                parts.remove(suggestion.subject)
                request = replace(request, selectors=tuple(parts))
            case other:
                raise AssertionError(f"no way to apply {other}")
        self.spec = ClaimSpec((replace(entry, alternatives=(request,)),), constraints)


@st.composite
def specs(draw):
    selectors = draw(
        st.sampled_from([(), (), ("kind=x",), ("kind=x && numa=0",), ("kind=x", "numa=1")])
    )
    request = Request("r", "gpu", selectors, count=draw(st.integers(1, 3)))
    if draw(st.sampled_from([False, False, False, True])):
        request = replace(request, mode=ALL, count=0)
    constraints = draw(st.sampled_from([(), (), (Constraint((), match="numa"),)]))
    return ClaimSpec((RequestEntry("r", (request,)),), constraints)


@st.composite
def shapes(draw):
    cpu = draw(st.sampled_from([1000, 2000, 4000]))
    return PodShape(
        requests=(("cpu", cpu),),
        node_selector=draw(st.sampled_from([(), (), (RACK_A,), (DISK, RACK_A)])),
        affinity=draw(
            st.sampled_from(
                [
                    None,
                    None,
                    None,
                    (NodeTerm((DISK,)),),
                    (NodeTerm((DISK, RACK_A)),),
                    (NodeTerm((DISK, RACK_A)), NodeTerm((ZONE_Z,))),
                    (NodeTerm((DISK, ZONE_Z)), NodeTerm((RACK_A, ZONE_Z))),
                ]
            )
        ),
        ports=draw(st.sampled_from([(), (), (), (PORT,)])),
        spread=draw(st.sampled_from([(), (), (), (EVEN,)])),
        pod_anti_affinity=draw(st.sampled_from([(), (), (), (APART,)])),
        data=("model/x",),
        data_required=draw(st.sampled_from([False, False, False, True])),
        features=draw(st.sampled_from([(), (), (), (FEATURE,)])),
    )


@st.composite
def plain_shapes(draw, focus):
    """Little to stand in the way besides what is looked at."""
    spread = (draw(st.sampled_from([EVEN, replace(EVEN, min_domains=3)])),)
    return PodShape(
        requests=(("cpu", draw(st.sampled_from([500, 1000]))),),
        tolerations=(Toleration(TAINT.key, "Exists"),),
        spread=spread if focus == "spread" else (),
    )


@st.composite
def volumes(draw, certain=False):
    """None, or a claim that limits its pods in one of the ways in which volumes do."""
    key = ("ns", "data")
    forms = ["bound", "zone", "local", "waits", "waits", "held", "attached"]
    form = draw(st.sampled_from(forms if certain else ["", "", "", *forms]))
    if not form:
        return None
    where = (NodeTerm((RACK_A,)),)
    claim = VolumeClaim(key, size=1 << 30)
    match form:
        case "bound":
            return replace(claim, terms=where)
        case "local":
            name = draw(st.sampled_from(["n0", "gone"]))
            term = NodeTerm(fields=(Requirement("metadata.name", "In", (name,)),))
            if draw(st.booleans()):
                term = NodeTerm((Requirement(HOSTNAME_LABEL, "In", (name,)),))
            return replace(claim, terms=(term,))
        case "zone":
            clause = Requirement("topology.kubernetes.io/zone", "In", ("z",))
            return replace(claim, zones=(clause,))
        case "waits":
            rooms = draw(st.sampled_from([None, (), (APP,)]))
            made = draw(st.sampled_from([None, Provision(where, rooms), Provision(None, rooms)]))
            free = draw(st.sampled_from([(), (("a", where),)]))
            return replace(claim, choices=free, provision=made)
        case "held":
            return replace(claim, exclusive=True)
    return replace(claim, attaches=("csi", "data"))


@st.composite
def worlds(draw):
    nodes = [
        Node(
            f"n{i}",
            (
                ("cpu", draw(st.sampled_from([0, 1000, 2000, 4000]))),
                ("pods", draw(st.integers(1, 3))),
            ),
            draw(
                st.sampled_from(
                    [
                        {},
                        {"rack": "a"},
                        {"rack": "b"},
                        {"rack": "a", "disk": "ssd"},
                        {"disk": "ssd"},
                        {"rack": "a", "topology.kubernetes.io/zone": "y"},
                        {"rack": "b", "topology.kubernetes.io/zone": "z"},
                    ]
                )
            ),
            draw(st.sampled_from([(), (), (TAINT,)])),
            draw(st.sampled_from([False, False, True])),
            data=draw(st.sampled_from([(), (("model/x", 1),)])),
            features=draw(st.sampled_from([frozenset(), frozenset((FEATURE,))])),
        )
        for i in range(draw(st.integers(1, 4)))
    ]
    one = st.tuples(
        st.sampled_from("xy"), st.sampled_from("01"), st.sampled_from([False, False, True])
    )
    devices = {node.name: draw(st.lists(one, max_size=3)) for node in nodes}
    holder = PodShape(requests=(("cpu", 1000),), ports=draw(st.sampled_from([(), (PORT,)])))
    # One thing in the way, or all sorts together.
    focus = draw(st.sampled_from(["", "", "volume", "spread", "claim"]))
    volume = draw(volumes(certain=focus == "volume")) if focus in ("", "volume") else None
    shared = (volume.key,) if volume is not None and volume.exclusive else ()
    holders = [
        Pod(
            ("ns", f"h{i}"),
            holder,
            labels={"app": "web"},
            volumes=(("ns", f"held-{i}"), *(shared if not i else ())),
        )
        for i in range(draw(st.integers(0, 2)))
    ]
    size = draw(st.sampled_from([0, 0, 0, 2, 3]))
    return World(
        nodes,
        devices,
        draw(shapes()) if not focus else draw(plain_shapes(focus)),
        size,
        draw(
            specs() if focus == "claim" else st.none() if focus else st.one_of(st.none(), specs())
        ),
        draw(st.sampled_from(["", "rack"])) if size else "",
        holders,
        volume=volume,
        limit=draw(st.sampled_from([None, None, 1, 2])),
        cost=draw(st.sampled_from([0, 0, 0, 1000])),
    )


def state(snapshot):
    inventory = snapshot.inventory
    return (
        snapshot.requested.tobytes()[: 8 * 8],
        {name: snapshot.node(name) for name in snapshot.rows},
        dict(snapshot.claims),
        dict(snapshot.allocations),
        sorted(inventory.slices),
        {pod.key for pod, _ in snapshot.placed_pods()},
        dict(snapshot.volumes),
        dict(snapshot.volume_limits),
        dict(snapshot.assumed_volumes),
    )


@checked
@given(worlds())
def test_applying_a_suggestion_makes_it_fit(world):
    placer, subject = world.placer(), world.subject()
    explainer = Explainer(placer, clauses)
    if explainer.fits(subject):
        return
    before = state(placer.snapshot)
    suggestions = explainer.suggest(subject)
    assert state(placer.snapshot) == before
    placer.snapshot.check()
    assert not explainer.fits(subject)
    for suggestion in suggestions:
        event(suggestion.kind)
        changed = world.copy()
        changed.apply(suggestion)
        assert changed.fits(), suggestion.text


def relaxations(world):
    """Every single change of the pod's and the claim's own wishes, by brute force."""
    shape, spec = world.shape, world.spec
    for i in range(len(shape.node_selector)):
        left = shape.node_selector[:i] + shape.node_selector[i + 1 :]
        yield "remove-selector", replace(world, shape=replace(shape, node_selector=left))
    if shape.affinity is not None:
        yield from affinity_relaxations(world, shape)
    if shape.ports:
        yield "remove-port", replace(world, shape=replace(shape, ports=()))
    if shape.spread:
        yield "remove-spread", replace(world, shape=replace(shape, spread=()))
        [one] = shape.spread
        for skew in range(2, 5):
            wider = replace(shape, spread=(replace(one, max_skew=skew),))
            yield "raise-skew", replace(world, shape=wider)
    if shape.features:
        yield "remove-feature", replace(world, shape=replace(shape, features=()))
        for i, node in enumerate(world.nodes):
            able = replace(node, features=frozenset((FEATURE,)))
            nodes = [*world.nodes[:i], able, *world.nodes[i + 1 :]]
            yield "upgrade-node", replace(world, nodes=nodes)
    if shape.data_required:
        yield "prefer-data", replace(world, shape=replace(shape, data_required=False))
    if world.volume is not None:
        yield from volume_relaxations(world, world.volume)
    if shape.pod_anti_affinity:
        relaxed = replace(shape, pod_anti_affinity=())
        yield "remove-pod-anti-affinity", replace(world, shape=relaxed)
    tolerant = (Toleration(TAINT.key, "Equal", TAINT.value, TAINT.effect),)
    yield "tolerate-taint", replace(world, shape=replace(shape, tolerations=tolerant))
    for i, node in enumerate(world.nodes):
        nodes = [*world.nodes[:i], replace(node, unschedulable=False), *world.nodes[i + 1 :]]
        yield "uncordon", replace(world, nodes=nodes)
    if world.topology:
        yield "remove-topology", replace(world, topology="")
    if spec is not None:
        yield from claim_relaxations(world, spec)


def affinity_relaxations(world, shape):
    """The whole of it, or a clause in all its terms, none of which may be left without any."""
    terms = shape.affinity
    for clause in {c for term in terms for c in term.labels}:
        left = tuple(NodeTerm(tuple(c for c in t.labels if c != clause)) for t in terms)
        if all(term.labels for term in left):
            yield "remove-affinity-clause", replace(world, shape=replace(shape, affinity=left))
    yield "remove-affinity", replace(world, shape=replace(shape, affinity=None))


def volume_relaxations(world, volume):
    if volume.terms is not None or volume.zones:
        yield "move-volume", replace(world, volume=replace(volume, terms=None, zones=()))
    wanted = {RACK_A.key: "a"} if volume.terms == (NodeTerm((RACK_A,)),) else {}
    wanted |= {ZONE: "z"} if volume.zones else {}
    for node in world.nodes if wanted and not world.gang_size else ():
        # A node without a zone is in every zone (upstream: VolumeZone).
        here = {ZONE: "z", **node.labels} if ZONE in wanted else node.labels
        if any(here.get(key) != value for key, value in wanted.items()):
            labels = {**node.labels, **wanted}
            there = replace(node, name="there", labels=labels, unschedulable=False)
            devices = {**world.devices, "there": world.devices.get(node.name, [])}
            yield "add-node-at", replace(world, nodes=[*world.nodes, there], devices=devices)
    if volume.choices is not None:
        more = replace(volume, choices=(*volume.choices, ("new", None)))
        yield "add-volume", replace(world, volume=more)
    if volume.exclusive and world.holders:
        yield "free-pod", replace(world, holders=world.holders[1:])


def claim_relaxations(world, spec):
    [entry] = spec.requests
    [request] = entry.alternatives

    def having(request, constraints=spec.constraints):
        return replace(
            world, spec=ClaimSpec((replace(entry, alternatives=(request,)),), constraints)
        )

    if spec.constraints:
        yield "remove-constraint", having(request, ())
    if request.mode == ALL:
        yield "count-devices", having(replace(request, mode="ExactCount", count=1))
    if request.count > 1:
        yield "lower-count", having(replace(request, count=1))
    parts = [p for s in request.selectors for p in s.split(" && ")]
    for i in range(len(parts)):
        left = tuple(parts[:i] + parts[i + 1 :])
        yield "remove-device-selector", having(replace(request, selectors=left))
    tolerant = (Toleration("bad", "Exists"),)
    yield "tolerate-device-taint", having(replace(request, tolerations=tolerant))


@checked
@given(worlds())
def test_a_single_change_that_helps_is_found(world):
    if world.fits():
        return
    helpful = {kind for kind, changed in relaxations(world) if changed.fits()}
    if "remove-affinity-clause" in helpful:
        helpful.discard("remove-affinity")  # less is enough
    found = {s.kind for s in Explainer(world.placer(), clauses).suggest(world.subject())}
    assert helpful <= found


@pytest.mark.timeout(400)  # as many tries as there are pairs of wishes
@checked
@given(worlds())
def test_two_wishes_that_help_together_are_found(world):
    """Only where nothing helps alone: then two changes of own wishes that do are given."""
    if world.fits():
        return
    found = Explainer(world.placer(), clauses).suggest(world.subject())
    if any(s.kind != "combination" for s in found):
        return
    pairs = [
        (kind, other)
        for kind, changed in relaxations(world)
        for other, both in relaxations(changed)
        if both.fits()
    ]
    if pairs:
        event("pair")
        assert found, pairs
        assert all(len(s.parts) == 2 for s in found)


def test_the_smallest_number_of_devices_is_named():
    nodes = [Node(f"n{i}", (("cpu", 100000), ("pods", 50))) for i in range(2)]
    spec = ClaimSpec((RequestEntry("r", (Request("r", "gpu"),)),))
    one = ("x", "0", False)
    world = World(
        nodes, {"n0": [one] * 7, "n1": [one] * 5}, PodShape(requests=(("cpu", 1),)), 15, spec
    )
    found = Explainer(world.placer(), clauses).suggest(world.subject())
    [devices] = [s for s in found if s.kind == "add-devices"]
    assert (devices.amount, devices.text) == (3, "add 3 more devices of class gpu on any node")
    [lower] = [s for s in found if s.kind == "lower-min-count"]
    assert lower.amount == 12


@checked
@given(worlds())
def test_where_all_wishes_given_up_help_something_is_said(world):
    """However many that takes, the set that is told is one of which none can be spared."""
    if world.fits():
        return
    wishless = PodShape(requests=world.shape.requests, tolerations=(Toleration("", "Exists"),))
    if not replace(world, shape=wishless, spec=None, volume=None).fits():
        return
    if world.spec is not None or world.volume is not None:
        return
    found = Explainer(world.placer(), clauses).suggest(world.subject())
    assert found
    for suggestion in found:
        for left_out in suggestion.parts:
            event(f"{len(suggestion.parts)} parts")
            changed = world.copy()
            for part in suggestion.parts:
                if part is not left_out:
                    changed.apply(part)
            assert not changed.fits(), (suggestion.text, left_out.text)


def test_four_changes_are_told_together_where_three_are_not_enough():
    labels = [Requirement(key, "In", ("x",)) for key in ("a", "b", "c")]
    world = World(
        [Node("n0", (("cpu", 1000), ("pods", 5)), {}, (TAINT,))],
        {},
        PodShape(requests=(("cpu", 500),), node_selector=tuple(labels)),
    )
    [found] = Explainer(world.placer(), clauses).suggest(world.subject())
    assert sorted(part.kind for part in found.parts) == [
        "remove-selector",
        "remove-selector",
        "remove-selector",
        "tolerate-taint",
    ]


def test_of_two_changes_that_differ_in_amounts_the_smaller_one_is_told():
    """To ask for one device would help as well; nobody needs to be told."""
    world = World(
        [Node("n0", (("cpu", 1000), ("pods", 5)), {}, (TAINT,))],
        {"n0": [("x", "0", False)] * 3},
        PodShape(),
        1,
        ClaimSpec((RequestEntry("r", (Request("r", "gpu", count=4),)),)),
    )
    found = Explainer(world.placer(), clauses).suggest(world.subject())
    kinds = [[(part.kind, part.amount) for part in s.parts] for s in found]
    assert kinds == [[("tolerate-taint", 0), ("lower-count", 3)]]


def test_a_gang_is_told_what_to_add_to_what_opens_its_nodes():
    """Without the selector two of the four fit: the selector alone is not enough."""
    world = World(
        [Node("n0", (("cpu", 4000), ("pods", 9)))],
        {},
        PodShape(requests=(("cpu", 2000),), node_selector=(DISK,)),
        gang_size=4,
    )
    found = Explainer(world.placer(), clauses).suggest(world.subject())
    assert [[part.kind for part in s.parts] for s in found] == [
        ["remove-selector", "lower-min-count"],
        ["remove-selector", "add-node"],
    ]
    assert all(apply_to(world, s).fits() for s in found)


def apply_to(world, suggestion):
    changed = world.copy()
    changed.apply(suggestion)
    return changed


def test_of_a_mixed_gang_the_pod_that_fits_nowhere_is_accounted_for():
    nodes = [Node(f"n{i}", (("cpu", 4000), ("pods", 9))) for i in range(3)]
    world = World(nodes, {}, PodShape(requests=(("cpu", 3000),)), gang_size=3)
    small = world.subject()
    big = replace(small.pods[2], shape=PodShape(requests=(("cpu", 5000),)))
    subject = replace(small, pods=(*small.pods[:2], big))
    question = Explainer(world.placer(), clauses).question(subject)
    assert question.subject.pods[0].key == big.key
    assert question.obstacles.failing() == {"Insufficient cpu": 3}
    texts = [s.text for s in question.suggestions]
    assert "1 more cpu on node n0" in texts
    assert "request at most 4 cpu (free on node n0) in pod p2" in texts


def test_a_gang_whose_pods_are_all_too_large_is_told_the_largest_that_all_find_room_for():
    nodes = [Node(f"n{i}", (("cpu", 4000), ("memory", 64), ("pods", 9))) for i in range(2)]
    world = World(nodes, {}, PodShape(requests=(("cpu", 9000), ("memory", 8))), gang_size=3)
    found = Explainer(world.placer(), clauses).suggest(world.subject())
    assert [s.text for s in found] == ["request at most 2 cpu for each pod"]
    assert apply_to(world, found[0]).fits()
    more = replace(found[0], amount=found[0].amount + 1)
    assert not apply_to(world, more).fits()


def test_a_gang_that_must_stay_together_asks_for_what_one_domain_has():
    nodes = [Node(f"n{i}", (("cpu", 4000), ("pods", 9)), {"rack": "ab"[i]}) for i in range(2)]
    world = World(nodes, {}, PodShape(requests=(("cpu", 3000),)), gang_size=2, topology="rack")
    found = Explainer(world.placer(), clauses).suggest(world.subject())
    assert "request at most 2 cpu for each pod" in [s.text for s in found]
    assert all(apply_to(world, s).fits() for s in found)


def test_of_a_mixed_gang_those_that_are_alike_ask_for_less():
    nodes = [Node(f"n{i}", (("cpu", 4000), ("pods", 9))) for i in range(3)]
    world = World(nodes, {}, PodShape(requests=(("cpu", 5000),)), gang_size=3)
    big = world.subject()
    small = replace(big.pods[2], shape=PodShape(requests=(("cpu", 2000),)))
    subject = replace(big, pods=(*big.pods[:2], small))
    texts = [s.text for s in Explainer(world.placer(), clauses).suggest(subject)]
    assert "request at most 4 cpu for 2 pods like p0" in texts
