"""Pods as rows: the rules by which requests add up, and shapes that are shared."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.base.quantity import parse_quantity
from kubarium.engine.model import HostPort
from kubarium.view.nodes import node_row, normalised_image
from kubarium.view.pod_requests import pod_requests
from kubarium.view.pods import PodReader


def container(cpu=None, memory=None, always=False, **more):
    requests = {k: v for k, v in (("cpu", cpu), ("memory", memory)) if v}
    found = {"name": "c", "image": "busybox", "resources": {"requests": requests}, **more}
    return {**found, "restartPolicy": "Always"} if always else found


def document(**spec):
    return {"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [], **spec}}


@pytest.mark.parametrize(
    ("spec", "cpu"),
    [
        ({"containers": [container("500m"), container("1")]}, 1500),
        ({"containers": [container("1")], "initContainers": [container("3")]}, 3000),
        ({"containers": [container("2")], "initContainers": [container("1")]}, 2000),
        # a sidecar runs beside the containers, and beside the init containers that follow it
        ({"containers": [container("1")], "initContainers": [container("1", always=True)]}, 2000),
        (
            {
                "containers": [container("1")],
                "initContainers": [container("2", always=True), container("3")],
            },
            5000,
        ),
        (
            {
                "containers": [container("1")],
                "initContainers": [container("3"), container("2", always=True)],
            },
            3000,
        ),
        ({"containers": [container("1")], "overhead": {"cpu": "250m"}}, 1250),
        ({"containers": [container("1")], "resources": {"requests": {"cpu": "4"}}}, 4000),
        ({"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]}, 2000),
    ],
)
def test_requests_add_up_as_upstream(spec, cpu):
    assert pod_requests(spec)[0]["cpu"] == cpu


def test_a_container_without_requests_counts_in_scores_only():
    exact, counted = pod_requests({"containers": [container(), container("1")]})
    assert exact == {"cpu": 1000}
    assert counted == (1100, 400 * 1024 * 1024)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5000), st.sampled_from(["n", "u", "m", ""])), min_size=1))
def test_a_pods_requests_are_rounded_once(quantities):
    texts = [f"{number}{suffix}" for number, suffix in quantities]
    exact, _ = pod_requests({"containers": [container(text, text) for text in texts]})
    total = sum(parse_quantity(text) for text in texts)
    assert exact.get("cpu", 0) == ceil(total * 1000)
    assert exact.get("memory", 0) == ceil(total)


def test_fractions_of_a_unit_add_up_within_a_pod():
    spec = {"containers": [container("500u", "500m"), container("500u", "500m")]}
    assert pod_requests(spec)[0] == {"cpu": 1, "memory": 1}
    assert pod_requests({**spec, "overhead": {"cpu": "1u"}})[0]["cpu"] == 2


def test_a_pod_with_requests_of_its_own_has_defaults_only_for_what_nobody_asks_for():
    """Source: kube-scheduler's PodInfo.CalculateResource."""
    spec = {"containers": [container(), container(memory="1Mi")]}
    assert pod_requests(spec)[1] == (200, 201 * 2**20)
    own = {**spec, "resources": {"requests": {"cpu": "3"}}}
    assert pod_requests(own)[1] == (3000, 2**20)
    bare = {"containers": [container(), container()], "resources": {"requests": {"cpu": "3"}}}
    assert pod_requests(bare)[1] == (3000, 400 * 2**20)


def pod(name, labels=None, **spec):
    return {
        "metadata": {"name": name, "namespace": "ns", "labels": labels or {}},
        "spec": {"containers": [container("1")], **spec},
    }


def test_pods_of_one_template_share_one_shape():
    reader = PodReader()
    first = reader.row(pod("a", {"index": "0"}))
    second = reader.row(pod("b", {"index": "1"}))
    assert first.shape is second.shape
    assert reader.row(pod("c", nodeSelector={"x": "y"})).shape != first.shape


def test_labels_belong_to_the_shape_where_other_pods_matter():
    spread = {
        "topologyKey": "zone",
        "maxSkew": 1,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "x"}},
        "matchLabelKeys": ["version"],
    }
    reader = PodReader()
    one = reader.shape(pod("a", {"app": "x", "version": "1"}, topologySpreadConstraints=[spread]))
    two = reader.shape(pod("b", {"app": "x", "version": "2"}, topologySpreadConstraints=[spread]))
    assert one.spread[0].selector.matches({"app": "x", "version": "1"})
    assert not one.spread[0].selector.matches({"app": "x", "version": "2"})
    assert two.spread[0].selector.matches({"app": "x", "version": "2"})


def test_host_ports_and_host_network():
    ports = [{"containerPort": 80}, {"containerPort": 81, "hostPort": 8081, "protocol": "UDP"}]
    plain = pod("a")
    plain["spec"]["containers"][0]["ports"] = ports
    assert PodReader().shape(plain).ports == (HostPort("0.0.0.0", "UDP", 8081),)
    plain["spec"]["hostNetwork"] = True
    assert PodReader().shape(plain).ports == (
        HostPort("0.0.0.0", "TCP", 80),
        HostPort("0.0.0.0", "UDP", 8081),
    )


def test_claims_by_name_by_template_and_not_needed():
    document = pod(
        "p",
        resourceClaims=[
            {"name": "direct", "resourceClaimName": "mine"},
            {"name": "made", "resourceClaimTemplateName": "t"},
            {"name": "unneeded", "resourceClaimTemplateName": "t"},
            {"name": "soon", "resourceClaimTemplateName": "t"},
        ],
    )
    document["status"] = {
        "resourceClaimStatuses": [
            {"name": "made", "resourceClaimName": "p-made-x7k2p"},
            {"name": "unneeded"},
        ]
    }
    assert PodReader().row(document).claims == (
        ("ns", "mine"),
        ("ns", "p-made-x7k2p"),
        ("ns", "p-soon"),
    )


def test_a_malformed_quantity_counts_as_nothing():
    node = {"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "four", "memory": "1Gi"}}}
    assert dict(node_row(node).allocatable) == {"cpu": 0, "memory": 1024**3}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("busybox", "busybox:latest"),
        ("busybox:1.36", "busybox:1.36"),
        ("reg:5000/team/app", "reg:5000/team/app:latest"),
        ("app@sha256:abc", "app@sha256:abc"),
    ],
)
def test_images_get_their_tag(given, expected):
    assert normalised_image(given) == expected


def test_a_resized_container_counts_with_the_most_it_wants_or_has():
    container = {"name": "c", "image": "x", "resources": {"requests": {"cpu": "1"}}}
    document = {
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"containers": [container], "nodeName": "n"},
        "status": {
            "containerStatuses": [
                {
                    "name": "c",
                    "allocatedResources": {"cpu": "2"},
                    "resources": {"requests": {"cpu": "1500m", "memory": "64"}},
                }
            ]
        },
    }
    assert dict(PodReader().row(document).shape.requests) == {"cpu": 2000, "memory": 64}
    grown = {**container, "resources": {"requests": {"cpu": "4"}}}
    document["spec"] = {"containers": [grown], "nodeName": "n"}
    assert PodReader().row(document).shape.request("cpu") == 4000
    refused = {"type": "PodResizePending", "status": "True", "reason": "Infeasible"}
    document["status"]["conditions"] = [refused]
    assert PodReader().row(document).shape.request("cpu") == 2000


def test_host_ports_of_init_containers_count_only_while_they_last():
    port = {"containerPort": 80, "hostPort": 80}
    init = [
        {"name": "once", "image": "x", "ports": [{**port, "hostPort": 81}]},
        {"name": "beside", "image": "x", "restartPolicy": "Always", "ports": [port]},
    ]
    shape = PodReader().shape(document(initContainers=init))
    assert [p.port for p in shape.ports] == [80]


def test_only_what_runs_on_is_resized_in_place():
    """KEP-1287: containers and sidecars count the most of what they ask for and have."""
    ask = {"resources": {"requests": {"cpu": "1"}}}
    have = {"resources": {"requests": {"cpu": "3"}}, "allocatedResources": {"cpu": "2"}}
    pod = document(
        containers=[{"name": "c", **ask}],
        initContainers=[
            {"name": "side", "restartPolicy": "Always", **ask},
            {"name": "init", **ask},
        ],
    )
    pod["status"] = {
        "containerStatuses": [{"name": "c", **have}],
        "initContainerStatuses": [{"name": "side", **have}, {"name": "init", **have}],
    }
    assert PodReader().shape(pod).request("cpu") == 6000
    # A node that does not report resources says nothing of what is allocated either.
    pod["status"] = {"containerStatuses": [{"name": "c", "allocatedResources": {"cpu": "2"}}]}
    assert PodReader().shape(pod).request("cpu") == 2000


def test_the_pods_own_resources_are_resized_too():
    pod = document(
        containers=[{"name": "c", "resources": {"requests": {"memory": "1Gi"}}}],
        resources={"requests": {"cpu": "1"}},
    )
    pod["status"] = {
        "resources": {"requests": {"cpu": "2", "memory": "7Gi"}},
        "allocatedResources": {"cpu": "4"},
    }
    shape = PodReader().shape(pod)
    assert shape.request("cpu") == 4000
    assert shape.request("memory") == 2**30  # the pod itself asks for no memory
    infeasible = {"type": "PodResizePending", "status": "True", "reason": "Infeasible"}
    pod["spec"]["resources"]["requests"]["cpu"] = "9"
    pod["status"]["conditions"] = [infeasible]
    assert PodReader().shape(pod).request("cpu") == 4000


def test_a_refused_resize_counts_what_the_node_has_and_no_limit():
    """What is neither allocated nor in use counts as nothing, though the limit says more."""
    refused = [{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]
    resources = {"requests": {"cpu": "1", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}
    pod = document(containers=[{"name": "c", "resources": resources}])
    have = {"name": "c", "resources": {"requests": {"cpu": "1"}}}
    pod["status"] = {"containerStatuses": [have], "conditions": refused}
    shape = PodReader().shape(pod)
    assert shape.requests == (("cpu", 1000),)
    assert shape.nonzero == (1000, 200 * 2**20)
    whole = document(containers=[{"name": "c"}], resources=resources)
    whole["status"] = {"resources": {"requests": {"cpu": "1"}}, "conditions": refused}
    assert PodReader().shape(whole).requests == (("cpu", 1000),)


def test_a_pod_is_preempted_only_if_the_scheduler_says_so():
    pod = document()
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    pod["status"] = {"conditions": [condition]}
    assert not PodReader().row(pod).preempted
    condition["reason"] = "PreemptionByScheduler"
    assert PodReader().row(pod).preempted


def test_disks_are_named_by_what_identifies_them():
    volumes = [
        {"name": "a", "gcePersistentDisk": {"pdName": "d", "readOnly": True}},
        {"name": "b", "rbd": {"monitors": ["m1", "m2"], "image": "i", "pool": "p"}},
        {"name": "c", "emptyDir": {}},
    ]
    gce, rbd = PodReader().row(document(volumes=volumes)).disks
    assert (gce.names, gce.read_only) == (("gce/d",), True)
    assert rbd.names == ("rbd/m1/p/i", "rbd/m2/p/i")


def test_images_that_are_mounted_count_as_those_of_containers():
    """Upstream (ImageLocality): containers, init containers and image volumes."""

    def mounting(*references):
        volumes = [
            {"name": f"v{i}", "image": {"reference": reference}}
            for i, reference in enumerate(references)
        ]
        spec = {"containers": [{"name": "c", "image": "app"}], "volumes": volumes}
        metadata = {"name": "p", "namespace": "ns"}
        return {"metadata": metadata, "spec": spec}

    reader = PodReader()
    none, one = mounting(), mounting("models/llama:3")
    one["spec"]["containers"] = none["spec"]["containers"]
    assert reader.shape(none).images == ("app:latest",)
    assert reader.shape(one).images == ("app:latest", "models/llama:3")
    assert reader.shape(mounting("models/llama:4")).images[1] == "models/llama:4"
    assert (reader.shape(none).mounted, reader.shape(one).mounted) == (0, 1)


def test_images_of_nodes_have_the_names_that_nodes_report():
    """Only names in pods get a tag: a node's agent reports names with one."""
    images = [{"names": ["app", "app:latest"], "sizeBytes": 7}, {"names": ["app"], "sizeBytes": 9}]
    images.append({"names": ["oci:/srv/app"], "sizeBytes": 11})
    node = {"metadata": {"name": "n"}, "status": {"images": images}}
    *pulled, from_file = node_row(node).images
    assert pulled == [("app", 7), ("app:latest", 7), ("app", 9)]
    assert from_file == (normalised_image("oci:/srv/app"), 11)
