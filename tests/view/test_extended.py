"""Extended resources that DeviceClasses answer."""

from dataclasses import replace

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    NODES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import QueueItem
from kubarium.view import why
from kubarium.view.cluster import ClusterView
from kubarium.view.extended import ExtendedResources, served_besides


def device_class(name, resource="", created="2026-01-01T00:00:00Z"):
    spec = {"extendedResourceName": resource} if resource else {}
    return {"metadata": {"name": name, "creationTimestamp": created}, "spec": spec}


def classes(*documents):
    found = ExtendedResources()
    for document in documents:
        found.set_class(document)
    return found


def container(name, restart="", **limits):
    wanted = {key.replace("__", "/").replace("_", "."): value for key, value in limits.items()}
    found = {"name": name, "resources": {"limits": wanted}}
    return found | ({"restartPolicy": restart} if restart else {})


def test_the_newest_class_wins_and_then_the_first_by_name():
    resource = "example.com/gpu"
    found = classes(
        device_class("b", resource), device_class("a", resource), device_class("implicit")
    )
    assert found.class_for(resource) == "a"
    found.set_class(device_class("new", resource, "2026-02-02T00:00:00Z"))
    assert found.class_for(resource) == "new"
    found.remove_class("new")
    assert found.class_for(resource) == "a"
    assert found.class_for("deviceclass.resource.kubernetes.io/implicit") == "implicit"
    assert found.class_for("deviceclass.resource.kubernetes.io/other") == ""


def told(found, spec):
    return [(m.container, m.request, m.count) for m in found.wanted(spec).mapped]


def counted(found, spec):
    requests = found.wanted(spec).document["devices"]["requests"]
    return {r["name"]: r["exactly"]["count"] for r in requests}


def test_init_containers_use_what_others_have_and_ask_for_the_rest():
    """``large`` wants four where the others have three: one more, not four more."""
    found = classes(device_class("gpu", "example.com/gpu"))
    spec = {
        "initContainers": [
            container("warm", example_com__gpu="2"),
            container("large", example_com__gpu="4"),
            container("side", "Always", example_com__gpu="1"),
        ],
        "containers": [container("main", example_com__gpu=2), container("none", cpu="1")],
    }
    assert told(found, spec) == [
        ("side", "container-2-request-0", 1),
        ("main", "container-3-request-0", 2),
        ("warm", "container-2-request-0", 1),
        ("warm", "container-3-request-0", 2),
        ("large", "container-2-request-0", 1),
        ("large", "container-3-request-0", 2),
        ("large", "container-1-request-0", 1),
    ]
    assert counted(found, spec) == {
        "container-1-request-0": 1,
        "container-2-request-0": 1,
        "container-3-request-0": 2,
    }


def test_init_containers_have_their_devices_one_after_the_other():
    """Three and five of them are five; what a sidecar before them has is not theirs."""
    found = classes(device_class("gpu", "example.com/gpu"))
    spec = {
        "initContainers": [
            container("side", "Always", example_com__gpu="1"),
            container("small", example_com__gpu="3"),
            container("large", example_com__gpu="5"),
        ],
        "containers": [container("main", cpu="1")],
    }
    assert told(found, spec) == [
        ("side", "container-0-request-0", 1),
        ("small", "container-2-request-0", 5),
        ("large", "container-2-request-0", 5),
    ]
    assert sum(counted(found, spec).values()) == 6


def test_a_request_is_numbered_as_the_resource_is_among_all_of_its_container():
    found = classes(device_class("gpu", "example.com/gpu"), device_class("nic", "example.com/nic"))
    spec = {
        "containers": [container("main", cpu="1", example_com__nic="1", example_com__gpu="2")],
    }
    assert told(found, spec) == [
        ("main", "container-0-request-1", 2),
        ("main", "container-0-request-2", 1),
    ]


GPU = "example.com/gpu"
DRIVER = "gpu.example.com"


def node(name, gpus=0, **more):
    amounts = {"cpu": "8", "memory": "8Gi", "pods": "20"} | more
    if gpus:
        amounts[GPU] = str(gpus)
    return {"metadata": {"name": name}, "status": {"allocatable": amounts, "capacity": amounts}}


def slice_of(name, gpus):
    spec = {
        "driver": DRIVER,
        "pool": {"name": name, "generation": 1, "resourceSliceCount": 1},
        "nodeName": name,
        "devices": [{"name": f"gpu-{i}"} for i in range(gpus)],
    }
    return {"metadata": {"name": f"slice-{name}"}, "spec": spec}


def asking(name, gpus=1, group="", **more):
    amounts = {GPU: str(gpus)} | more
    spec = {"containers": [container("main") | {"resources": {"limits": amounts}}]}
    if group:
        spec["schedulingGroup"] = {"podGroupName": group}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}"},
        "spec": spec,
    }


def mixed_cluster(plugin=2, dra=2, classes=(("gpu", GPU),)):
    """One node whose GPUs a device plugin serves, one whose GPUs a DRA driver publishes."""
    view = ClusterView()
    for name, resource in classes:
        view.apply(DEVICE_CLASSES, None, device_class(name, resource))
    view.apply(NODES, None, node("plugin", plugin))
    view.apply(NODES, None, node("dra"))
    view.apply(RESOURCE_SLICES, None, slice_of("dra", dra))
    return view


def placed(view, *documents):
    placer = Placer(view.snapshot)
    found = [placer.place(view.pod(document)) for document in documents]
    view.snapshot.check()
    return found


def test_each_node_serves_an_extended_resource_in_its_own_way():
    view = mixed_cluster()
    found = placed(view, *(asking(f"p{i}") for i in range(4)))
    assert sorted(p.node for p in found) == ["dra", "dra", "plugin", "plugin"]
    for placement in found:
        by_plugin = placement.node == "plugin"
        assert bool(placement.allocations) == (not by_plugin)
        assert placement.pod.shape.request(GPU) == int(by_plugin)
    late = view.pod(asking("late"))
    placer = Placer(view.snapshot)
    assert placer.place(late) is None
    verdict = placer.account(late)
    assert verdict.by_node["plugin"] == (f"Insufficient {GPU}",)
    assert verdict.by_node["dra"] == ("cannot allocate all claims",)


def test_what_keeps_a_pod_from_all_nodes_is_said_once_though_they_serve_it_in_different_ways():
    view = mixed_cluster()
    view.apply(RESOURCE_CLAIMS, None, wanting_nics("other"))
    document = asking("p")
    document["spec"]["resourceClaims"] = [{"name": "other", "resourceClaimName": "other"}]
    verdict = Placer(view.snapshot).account(view.pod(document))
    assert verdict.message() == (
        "0/2 nodes are available: request r: device class nic does not exist."
    )


def wanting_nics(name, **more):
    exactly = {"deviceClassName": "nic", "allocationMode": "ExactCount", "count": 1} | more
    return {
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}},
    }


def test_a_selector_that_fails_is_an_error_however_nodes_serve_the_pods_other_resources():
    view = mixed_cluster()
    view.apply(DEVICE_CLASSES, None, device_class("nic"))
    bad = [{"cel": {"expression": 'device.attributes["a"].b == "c"'}}]
    view.apply(RESOURCE_CLAIMS, None, wanting_nics("other", selectors=bad))
    document = asking("p")
    document["spec"]["resourceClaims"] = [{"name": "other", "resourceClaimName": "other"}]
    verdict = Placer(view.snapshot).account(view.pod(document))
    assert verdict.failed == "DynamicResources"
    assert verdict.message().startswith(
        'running "DynamicResources" filter plugin: claim ns/other: selector #0'
    )


def test_preemption_compares_a_pod_with_the_nodes_that_serve_it_as_it_is_counted():
    """The pod wants more GPUs than the node with the plugin has at all: nobody's end helps."""
    view = mixed_cluster(plugin=2, dra=1)
    placer = Placer(view.snapshot)
    plan = plan_cycle(placer, [QueueItem((view.pod(asking("p", 3)),))])
    [(_, verdict)] = plan.decisions[0].unplaced
    assert verdict.claims == "still not schedulable"
    assert verdict.preemption == (
        "0/2 nodes are available: 1 No preemption victims found for incoming pod,"
        " 1 Preemption is not helpful for scheduling."
    )


def test_a_resource_that_nobody_has_named_before_makes_room_for_itself():
    """The columns of resources grow by doubling: the ninth is looked for in the taller table."""
    for names in range(8):
        view = mixed_cluster(classes=(("gpu", GPU), ("nic", "example.com/nic")))
        for number in range(names):
            view.snapshot.resource_index(f"example.com/other-{number}")
        document = asking("p", 1, **{"example.com/nic": "1"})
        verdict = Placer(view.snapshot).account(view.pod(document))
        assert set(verdict.counts) == {"cannot allocate all claims"}


def test_a_pod_on_its_node_holds_what_that_node_serves():
    view = mixed_cluster()
    for name in ("plugin", "dra"):
        document = asking(f"on-{name}")
        document["spec"]["nodeName"] = name
        view.apply(PODS, None, document)
    here, there = (view.snapshot.placed(("ns", f"on-{name}")) for name in ("plugin", "dra"))
    assert (here.shape.request(GPU), here.claims) == (1, ())
    assert there.shape.request(GPU) == 0
    assert there.shape.backed == ((GPU, "gpu", 1),)


def test_a_node_that_begins_to_serve_a_resource_itself_is_seen():
    view = mixed_cluster(plugin=1)
    first, second = placed(view, asking("a", 2), asking("b", 1))
    assert (first.node, second.node) == ("dra", "plugin")
    view.apply(NODES, node("plugin", 1), node("plugin"))
    assert view.pod(asking("c")).variants == ()
    assert len(view.pod(asking("c")).claims) == 1
    view.apply(NODES, node("dra"), node("dra", 1))
    view.apply(NODES, node("plugin"), node("plugin", 1))
    assert view.pod(asking("c")).claims == ()


def test_a_plugin_that_takes_over_a_node_does_not_give_away_what_devices_stand_for():
    view = mixed_cluster()
    asked = asking("first")
    asked["spec"]["nodeName"] = "dra"
    view.apply(PODS, None, asked)
    for gpus, held in ((1, 1), (0, 0), (1, 1)):
        view.apply(NODES, node("dra"), node("dra", gpus))
        assert view.snapshot.placed(("ns", "first")).shape.request(GPU) == held
    view.apply(NODES, node("plugin"), node("plugin", 0))
    [nowhere] = placed(view, asking("second"))
    assert nowhere is None
    view.apply(NODES, node("dra", 1), node("dra", 2))
    [there] = placed(view, asking("second"))
    assert there.node == "dra"


def test_of_two_resources_a_node_may_serve_one_itself():
    classes = (("gpu", GPU), ("net", "example.com/net"))
    view = mixed_cluster(classes=classes)
    view.apply(RESOURCE_SLICES, None, slice_of("plugin", 1))
    document = asking("p", 2, **{"example.com/net": "1"})
    [placement] = placed(view, document)
    assert placement.node == "plugin"
    assert placement.pod.shape.request(GPU) == 2
    [(key, allocation)] = placement.allocations
    assert [result.request for result in allocation.results] == ["container-0-request-1"]
    served = served_besides(placement.pod.shape)
    assert served == (GPU,)
    assert [m.resource for m in view.extended.wanted(document["spec"], served).mapped] == [
        "example.com/net"
    ]
    view.apply(PODS, document, None)
    assert key not in view.snapshot.claims


def test_a_gang_may_use_both_sorts_of_nodes():
    view = mixed_cluster(2, 2)
    group = {
        "metadata": {"name": "g", "namespace": "ns", "uid": "g"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 4}}},
    }
    view.apply(POD_GROUPS, None, group)
    pods = tuple(view.pod(asking(f"p{i}", group="g")) for i in range(4))
    [decision] = plan_cycle(
        Placer(view.snapshot), [QueueItem(pods, view.gang(("ns", "g")))]
    ).decisions
    assert sorted(p.node for p in decision.placements) == ["dra", "dra", "plugin", "plugin"]
    view = mixed_cluster(2, 2)
    group["spec"]["schedulingPolicy"]["gang"]["minCount"] = 5
    view.apply(POD_GROUPS, None, group)
    more = tuple(view.pod(asking(f"p{i}", group="g")) for i in range(5))
    [decision] = plan_cycle(
        Placer(view.snapshot), [QueueItem(more, view.gang(("ns", "g")))]
    ).decisions
    assert not decision.placements
    assert decision.gang_verdict.placed == 4


def test_victims_are_found_on_either_sort_of_node():
    for full, other in (("plugin", "dra"), ("dra", "plugin")):
        view = mixed_cluster(1, 1)
        low = [view.pod(asking(name)) for name in ("a", "b")]
        for pod in low:
            assert Placer(view.snapshot).place(pod) is not None
        victim = next(p for p in low if view.snapshot.node_of(p.key) == full)
        stays = next(p for p in low if view.snapshot.node_of(p.key) == other)
        view.snapshot.place(replace(view.snapshot.placed(stays.key), priority=10), other)
        high = replace(view.pod(asking("high")), priority=5)
        high = replace(high, variants=tuple(replace(v, priority=5) for v in high.variants))
        [decision] = plan_cycle(Placer(view.snapshot), [QueueItem((high,))]).decisions
        assert [p.key for p in decision.preemption.victims] == [victim.key]


def test_an_account_says_of_each_sort_what_it_lacks_and_what_would_help():
    view = mixed_cluster(1, 1)
    placed(view, asking("a"), asking("b"))
    document = asking("c", 2)
    view.apply(PODS, None, document)
    told = why.explain({PODS: [document]}, document, view)
    assert told.summary == (
        f"0/2 nodes are available: 1 Insufficient {GPU}, 1 cannot allocate all claims."
    )
    assert {tuple(entry["nodes"]): [r["text"] for r in entry["rules"]] for entry in told.nodes} == {
        ("dra",): ["cannot give the devices of the claims"],
        ("plugin",): [f"Insufficient {GPU}, which a device plugin serves there"],
    }
    assert "add 2 more devices of class gpu on node dra" in {s.text for s in told.suggestions}
    view.apply(RESOURCE_SLICES, slice_of("dra", 1), slice_of("dra", 3))
    assert Placer(view.snapshot).place(view.pod(document)).node == "dra"


def test_a_misspelt_resource_that_a_class_answers_is_put_right():
    limits = {"limits": {"example.com/gpus": "1"}}
    subject = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"containers": [{"name": "c", "resources": limits}]},
    }
    node = {
        "metadata": {"name": "n"},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "pods": "10"}, "conditions": []},
    }
    documents = {
        NODES: [node],
        DEVICE_CLASSES: [device_class("gpu", "example.com/gpu")],
        PODS: [subject],
    }
    found = why.explain(documents, subject)
    assert "no node has example.com/gpus; did you mean example.com/gpu?" in found.tightest
    assert "request example.com/gpu instead" not in str(found.suggestions)
