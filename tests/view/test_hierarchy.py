"""Hierarchies of groups: their faults, and why they do not start."""

from __future__ import annotations

from copy import deepcopy

from hypothesis import event, given, settings
from hypothesis import strategies as st

from kubarium.api.kinds import COMPOSITE_POD_GROUPS, GANG_WORKLOADS, NODES, POD_GROUPS, PODS
from kubarium.engine.plan import Leaf
from kubarium.engine.snapshot import Snapshot
from kubarium.view.forest import Forest
from kubarium.view.why import explain

from .test_why import group, node, pod


def composite(name, least=1, parent=""):
    spec = {
        "schedulingPolicy": {"gang": {"minGroupCount": least}},
        "workloadRef": {"workloadName": "w", "templateName": "t"},
    }
    if parent:
        spec["parentCompositePodGroupName"] = parent
    return {
        "apiVersion": "scheduling.k8s.io/v1alpha3",
        "kind": "CompositePodGroup",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": spec,
    }


def child(name, count, parent):
    document = group(name, count)
    document["spec"]["parentCompositePodGroupName"] = parent
    document["spec"]["workloadRef"] = {"workloadName": "w", "templateName": "t"}
    return document


def documents(**more):
    pods = [pod(f"{g}-{i}", group=g) for g in ("one", "two") for i in range(3)]
    found = {
        NODES: [node("a", cpu="4")],
        COMPOSITE_POD_GROUPS: [composite("job", 2)],
        POD_GROUPS: [child("one", 3, "job"), child("two", 3, "job")],
        PODS: pods,
    }
    return found | more


def test_a_composite_names_the_group_without_room():
    world = documents()
    for subject in (world[COMPOSITE_POD_GROUPS][0], world[POD_GROUPS][0], world[PODS][0]):
        told = explain(world, subject)
        assert told.state == "Pending"
        while not told.subject.startswith("compositepodgroup"):
            [told] = told.children
        assert told.subject == "compositepodgroup default/job"
        assert "needs 2 groups at once, 1 found room" in told.summary
        [failed] = told.children
        assert failed.subject == "podgroup default/two"
        assert "gang needs 3, at most 1 fit" in failed.summary


def test_the_group_without_room_says_which_nodes_fail_what_and_what_would_help():
    world = documents()
    told = explain(world, world[COMPOSITE_POD_GROUPS][0])
    [failed] = told.children
    assert failed.tightest == "room for all at once: 1 of 3 pods find a place"
    kinds = {s.kind: s for s in failed.suggestions}
    assert kinds["add-node"].amount == 1
    assert kinds["lower-min-count"].amount == 1
    helped = explain(world | {NODES: [node("a", cpu="4"), node("b", cpu="4")]}, told_of(world))
    assert helped.summary.startswith("the hierarchy fits now")
    fewer = world | {POD_GROUPS: [child("one", 3, "job"), child("two", 1, "job")]}
    assert not explain(fewer, told_of(world)).children


def test_nodes_are_told_as_the_other_groups_leave_them():
    world = documents()
    world[NODES] = [node("a", cpu="3"), node("b", cpu="0")]
    [failed] = explain(world, told_of(world)).children
    assert failed.reasons == ("Insufficient cpu: a, b",)
    assert failed.nodes[0]["rules"][0]["kind"] == "resource"
    [more] = [s for s in failed.suggestions if s.kind == "add-node"]
    assert more.amount == 1


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=3),
    st.lists(st.sampled_from(["0", "1", "2", "4"]), min_size=1, max_size=3),
)
def test_what_would_help_a_group_makes_the_whole_hierarchy_start(sizes, cpus):
    names = [f"g{i}" for i in range(len(sizes))]

    def world(cpus, least):
        return {
            NODES: [node(f"n{i}", cpu=cpu) for i, cpu in enumerate(cpus)],
            COMPOSITE_POD_GROUPS: [composite("job", len(sizes))],
            POD_GROUPS: [child(name, least[name], "job") for name in names],
            PODS: [
                pod(f"{name}-{i}", group=name)
                for name, size in zip(names, sizes, strict=True)
                for i in range(size)
            ],
        }

    least = dict(zip(names, sizes, strict=True))
    documents = world(cpus, least)
    for failed in explain(documents, told_of(documents)).children:
        for suggestion in failed.suggestions:
            more, fewer = list(cpus), dict(least)
            match suggestion.kind:
                case "add-node":
                    more += [cpus[int(suggestion.node[1:])]] * suggestion.amount
                case "lower-min-count":
                    fewer[suggestion.subject] = suggestion.amount
                case _:
                    continue
            changed = world(more, fewer)
            told = explain(changed, told_of(changed))
            assert not told.children, (suggestion.text, told.summary)


def told_of(world):
    return world[COMPOSITE_POD_GROUPS][0]


def test_a_workload_speaks_of_its_groups():
    world = documents()
    workload = {
        "apiVersion": "scheduling.k8s.io/v1beta1",
        "kind": "Workload",
        "metadata": {"name": "w", "namespace": "default"},
    }
    told = explain(world | {GANG_WORKLOADS: [workload]}, workload)
    assert told.summary == "2 pod groups, 2 waiting"
    [one] = [c for c in told.children if c.subject.startswith("compositepodgroup")]
    assert one.facts["same_for"] == 2


def test_a_composite_that_fits_now_says_so():
    world = documents()
    world[NODES] = [node("a", cpu="8")]
    told = explain(world, world[COMPOSITE_POD_GROUPS][0])
    assert told.summary == "the hierarchy fits now; the scheduler has not placed it yet"


def test_a_composite_tells_what_is_missing_or_wrong():
    world = documents()
    world[POD_GROUPS].pop()
    told = explain(world, world[COMPOSITE_POD_GROUPS][0])
    assert "minGroupCount" in told.summary
    orphan = documents()
    orphan[COMPOSITE_POD_GROUPS] = []
    told = explain(orphan, orphan[PODS][0])
    assert "composite pod group job" in str(told.to_json())
    circle = documents()
    circle[COMPOSITE_POD_GROUPS] = [composite("job", 2, "job")]
    told = explain(circle, circle[COMPOSITE_POD_GROUPS][0])
    assert "cycle: job -> job" in told.summary


def test_pods_that_disagree_are_told_so():
    pods = [pod("g-0", group="g"), pod("g-1", group="g", priority=5)]
    world = {NODES: [node("a")], POD_GROUPS: [group("g", 2)], PODS: pods}
    told = explain(world, world[POD_GROUPS][0])
    assert "match the priority of the pod group, got: 0 and 5" in told.summary


def test_groups_without_waiting_pods_have_an_account_too():
    world = documents()
    for phase, state in (("Succeeded", "Finished"), ("Running", "Scheduled"), (None, "Pending")):
        pods = [{**p, "status": {"phase": phase}} for p in world[PODS]] if phase else []
        for document in pods if phase == "Running" else ():
            document["spec"] = {**document["spec"], "nodeName": "a"}
        changed = world | {PODS: pods}
        for subject in (world[COMPOSITE_POD_GROUPS][0], world[POD_GROUPS][0]):
            assert explain(changed, subject).state == state, phase
    basic = group("g", 1)
    basic["spec"]["schedulingPolicy"] = {"basic": {}}
    assert explain({NODES: [node("a")], POD_GROUPS: [basic], PODS: []}, basic).state == "Pending"


NAMES = st.sampled_from("abcdef")


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(NAMES, st.none() | NAMES),
    st.dictionaries(st.sampled_from("xyz"), NAMES),
    st.lists(NAMES, max_size=3),
)
def test_any_set_of_parents_has_one_root_for_each_group_and_an_answer(above, groups, removed):
    """Circles, missing parents, deep chains: never a loop without end, never two roots."""
    forest = Forest(Snapshot())
    for name, parent in above.items():
        forest.set_composite(("default", name), composite(name, 1, parent or ""))
    for name, parent in groups.items():
        forest.set_group(("default", name), child(name, 1, parent))
    for name in removed:
        forest.set_composite(("default", name), None)
    known = {name for name in above if name not in removed}
    for name, parent in groups.items():
        root = forest.root_of(("default", name))
        assert root is not None
        assert (False, ("default", name)) in list(forest.below(root)), "reachable from its root"
        assert root == forest.root_of_composite(("default", parent))
        fault = forest.fault(root)
        path, at = [], parent
        while at is not None and at in known and at not in path:
            path.append(at)
            at = above[at]
        if at is not None and at not in known:
            assert root[1] == at
            assert fault is not None
            assert not fault.invalid
        elif at is not None:
            assert fault is not None
            assert "cycle" in fault.text
        elif fault is None:
            tree = forest.tree(root, lambda key: None, lambda key: ())
            assert not any(isinstance(c, Leaf) for c in tree.children)
            assert len(path) <= 3
        else:
            assert "levels deep" in fault.text
    for name in above:
        forest.set_composite(("default", name), None)
    for name in groups:
        forest.set_group(("default", name), None)
    assert not forest._children


# Preemption


def starts(world):
    """Whether the scheduler would start the hierarchy now, if not all of it."""
    told = explain(world, told_of(world)).summary
    return told.startswith("the hierarchy fits now") or "beyond the minimum" in told


def with_priority(world, priority, policy=None):
    """The hierarchy's pods and groups with another priority, or another policy."""
    found = deepcopy(world)
    members = [p for p in found[PODS] if "nodeName" not in p["spec"]]
    for document in (*found[COMPOSITE_POD_GROUPS], *found[POD_GROUPS], *members):
        if priority is not None:
            document["spec"]["priority"] = priority
        if policy is not None:
            document["spec"]["preemptionPolicy"] = policy
    return found


def without(world, names):
    kept = [p for p in world[PODS] if f"default/{p['metadata']['name']}" not in names]
    return {**world, PODS: kept}


@st.composite
def occupied_worlds(draw):
    """Two or three groups below one or two composites, and pods of several priorities that run."""
    names = ("one", "two", "three")[: draw(st.integers(2, 3))]
    nested = draw(st.booleans())
    composites = [composite("job", draw(st.integers(1, 2)))]
    if nested:
        composites.append(composite("inner", 1, "job"))
    groups, members = [], []
    for number, name in enumerate(names):
        size = draw(st.integers(1, 3))
        parent = "inner" if nested and number else "job"
        groups.append(child(name, draw(st.integers(1, size)), parent))
        members += [pod(f"{name}-{i}", group=name) for i in range(size)]
    running = [
        pod(f"r{i}", on=draw(st.sampled_from("ab")), priority=draw(st.integers(0, 4)))
        for i in range(draw(st.integers(1, 4)))
    ]
    nodes = [node(name, cpu=draw(st.sampled_from(["1", "2", "3"]))) for name in "ab"]
    world = {
        NODES: nodes,
        COMPOSITE_POD_GROUPS: composites,
        POD_GROUPS: groups,
        PODS: [*members, *running],
    }
    policy = draw(st.sampled_from([None, None, "Never"]))
    return with_priority(world, draw(st.integers(0, 3)), policy)


@settings(deadline=None, max_examples=150)
@given(occupied_worlds())
def test_what_preemption_could_do_for_a_hierarchy_it_does_when_it_is_allowed_to(world):
    told = explain(world, told_of(world))
    makes_room = [line for line in told.reasons if line.startswith("preemption makes room")]
    for suggestion in told.suggestions:
        if suggestion.kind == "raise-priority":
            after = with_priority(world, suggestion.amount)
        elif suggestion.kind == "allow-preemption":
            after = with_priority(world, None, "PreemptLowerPriority")
        else:
            continue
        event(suggestion.kind)
        assert not makes_room
        now = explain(after, told_of(after))
        assert any(line.startswith("preemption makes room") for line in now.reasons)
        freed = without(after, suggestion.subject.split(","))
        assert len(freed[PODS]) < len(after[PODS])
        assert starts(freed)
    if makes_room:
        event("makes room")
    elif told.children:
        assert not preempts_above_all(world) or any(
            s.kind in ("raise-priority", "allow-preemption") for s in told.suggestions
        )


def preempts_above_all(world):
    """Whether a hierarchy above all others in priority would make room for itself."""
    above = with_priority(world, 99, world[POD_GROUPS][0]["spec"].get("preemptionPolicy"))
    told = explain(above, told_of(above))
    return any(line.startswith("preemption makes room") for line in told.reasons)


def test_a_hierarchy_says_whom_it_evicts():
    world = documents()
    world[PODS] = [*world[PODS], pod("low", cpu="3", on="b")]
    world[NODES] = [node("a", cpu="3"), node("b", cpu="3")]
    told = explain(with_priority(world, 5), told_of(world))
    assert told.reasons == ("preemption makes room: pod default/low would be evicted",)
    equal = explain(with_priority(world, 0), told_of(world))
    [raising] = [s for s in equal.suggestions if s.kind == "raise-priority"]
    assert raising.text == "raise the priority from 0 above 0: pod default/low would be evicted"
    never = explain(with_priority(world, 5, "Never"), told_of(world))
    assert never.reasons == ("preemption: not eligible due to preemptionPolicy=Never.",)
    assert never.suggestions[-1].kind == "allow-preemption"


def test_room_promised_to_others_is_not_given_to_a_hierarchy():
    world = documents()
    world[NODES] = [node("a", cpu="3"), node("b", cpu="3")]
    other = pod("other", cpu="3", priority=7)
    other["status"] = {"nominatedNodeName": "b"}
    promised = {**world, PODS: [*world[PODS], other]}
    assert explain(world, told_of(world)).summary.startswith("the hierarchy fits now")
    told = explain(promised, told_of(world))
    assert "1 found room" in told.summary
    assert "room on node b is kept for pod default/other, which was promised it" in told.reasons
