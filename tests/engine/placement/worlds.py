"""Random small clusters and pods, and a naive reading of the rules to compare with."""

from __future__ import annotations

from hypothesis import strategies as st

from kubarium.engine.model import HostPort, Node, Pod, PodShape, PreferredTerm, Taint, Toleration
from kubarium.engine.placement.place import Placer
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.engine.snapshot import Snapshot

TAINT = Taint("dedicated", "gpu", "NoSchedule")
SOFT_TAINT = Taint("old", "", "PreferNoSchedule")

labels = st.fixed_dictionaries({}, optional={"rack": st.sampled_from("ab"), "disk": st.just("ssd")})
clauses = st.builds(
    Requirement,
    st.sampled_from(["rack", "disk"]),
    st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
    st.sampled_from([("a",), ("b",), ("a", "b"), ("ssd",)]),
)
terms = st.builds(NodeTerm, st.lists(clauses, max_size=2).map(tuple))


@st.composite
def nodes(draw, index=0):
    return Node(
        f"node-{index}",
        (
            ("cpu", draw(st.integers(0, 8)) * 500),
            ("memory", draw(st.integers(0, 8))),
            ("pods", draw(st.integers(0, 4))),
        ),
        draw(labels),
        tuple(draw(st.sets(st.sampled_from([TAINT, SOFT_TAINT])))),
        draw(st.booleans()) and draw(st.booleans()),
    )


@st.composite
def clusters(draw, least=0, most=5):
    return [draw(nodes(index=i)) for i in range(draw(st.integers(least, most)))]


@st.composite
def shapes(draw):
    cpu, memory = draw(st.integers(0, 4)) * 500, draw(st.integers(0, 4))
    requests = tuple((n, a) for n, a in (("cpu", cpu), ("memory", memory)) if a)
    port = draw(st.sampled_from([0, 0, 0, 80]))
    return PodShape(
        requests=requests,
        node_selector=tuple(draw(st.lists(clauses, max_size=1))),
        affinity=draw(st.none() | st.lists(terms, min_size=1, max_size=2).map(tuple)),
        preferred=tuple(
            draw(st.lists(st.builds(PreferredTerm, st.integers(1, 100), terms), max_size=1))
        ),
        tolerations=draw(st.sampled_from([(), (), (Toleration("dedicated", "Exists"),)])),
        ports=(HostPort("0.0.0.0", "TCP", port),) if port else (),
        nonzero=(cpu or 100, memory or 1),
    )


def pods(shape_strategy=None, most=8):
    one = shape_strategy if shape_strategy is not None else shapes()
    return st.lists(st.tuples(one, st.integers(0, 2)), max_size=most).map(
        lambda rows: [
            Pod(("ns", f"pod-{i}"), shape, priority=priority, created=float(i))
            for i, (shape, priority) in enumerate(rows)
        ]
    )


def snapshot_of(cluster) -> Snapshot:
    snapshot = Snapshot()
    for node in cluster:
        snapshot.set_node(node)
    return snapshot


def placer_of(cluster) -> Placer:
    return Placer(snapshot_of(cluster))


def naive_fits(node: Node, shape: PodShape, there: list[PodShape]) -> bool:
    """The rules read one node at a time, without columns, caches or order of filters."""
    if node.unschedulable:
        return False
    for taint in node.taints:
        if taint.effect == "NoSchedule" and not any(t.tolerates(taint) for t in shape.tolerations):
            return False
    if not all(r.holds(node.labels.get(r.key)) for r in shape.node_selector):
        return False
    if shape.affinity is not None and not any(
        t.matches(node.name, node.labels) for t in shape.affinity
    ):
        return False
    have = dict(node.allocatable)
    if len(there) + 1 > have.get("pods", 0):
        return False
    for name, amount in shape.requests:
        if sum(s.request(name) for s in there) + amount > have.get(name, 0):
            return False
    return not (shape.ports and any(s.ports for s in there))
