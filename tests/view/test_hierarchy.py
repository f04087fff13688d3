"""Hierarchies of groups: their faults, and why they do not start."""

from __future__ import annotations

from hypothesis import given, settings
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
