"""What ``why`` says, from documents alone."""

from __future__ import annotations

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    EVENTS,
    JOB_SETS,
    JOBS,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    TRAIN_JOBS,
    WORKLOADS,
)
from kubarium.view import preempting
from kubarium.view.volumes import STORAGE_CLASSES
from kubarium.view.why import explain

DRIVER = "gpu.example.com"


def node(name, cpu="4", labels=None, **spec):
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": spec,
        "status": {"allocatable": {"cpu": cpu, "memory": "16Gi", "pods": "20"}},
    }


def pod(name, cpu="1", on="", group="", claims=(), owner=None, **spec):
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}"}
    if owner is not None:
        metadata["ownerReferences"] = [{"uid": owner["metadata"]["uid"], "controller": True}]
    container = {"name": "main", "image": "busybox", "resources": {"requests": {"cpu": cpu}}}
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container], **spec},
    }
    if on:
        document["spec"]["nodeName"] = on
    if group:
        document["spec"]["schedulingGroup"] = {"podGroupName": group}
    if claims:
        document["spec"]["resourceClaims"] = [{"name": c, "resourceClaimName": c} for c in claims]
    return document


def group(name, count):
    return {
        "apiVersion": "scheduling.k8s.io/v1beta1",
        "kind": "PodGroup",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": count}}},
    }


def claim(name, selectors=(), **exactly):
    request = {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1, **exactly}
    if selectors:
        request["selectors"] = [{"cel": {"expression": s}} for s in selectors]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": request}]}},
    }


def gpus(on, count, **attributes):
    return {
        "metadata": {"name": f"{on}-slice"},
        "spec": {
            "driver": DRIVER,
            "nodeName": on,
            "pool": {"name": on, "generation": 1, "resourceSliceCount": 1},
            "devices": [
                {
                    "name": f"gpu-{i}",
                    "attributes": {k: {"string": v} for k, v in attributes.items()},
                }
                for i in range(count)
            ],
        },
    }


GPU_CLASS = {
    "metadata": {"name": "gpu"},
    "spec": {"selectors": [{"cel": {"expression": f'device.driver == "{DRIVER}"'}}]},
}


def texts(explanation):
    return [s.text for s in explanation.suggestions]


def test_a_pod_too_large_is_told_how_much_is_missing_where():
    subject = pod("big", cpu="6")
    found = explain({NODES: [node("a"), node("b", cpu="5")], PODS: [subject]}, subject)
    assert found.state == "Pending"
    assert found.summary == "0/2 nodes are available: 2 Insufficient cpu."
    assert "1 more cpu on node b" in texts(found)


def test_a_selector_a_taint_and_a_cordon_are_each_named():
    taint = {"key": "gpu", "value": "only", "effect": "NoSchedule"}
    subject = pod("picky", nodeSelector={"rack": "r9"})
    nodes = [node("plain")]
    unlabelled = explain({NODES: nodes}, subject)
    assert "remove node selector clause rack=r9" in texts(unlabelled)
    assert unlabelled.reasons == ("node selector rack=r9 (no node has label rack): plain",)
    racked = [node("plain", labels={"rack": "r90"})]
    assert "change node selector clause rack=r9 to rack=r90" in texts(
        explain({NODES: racked}, subject)
    )
    tainted = explain({NODES: [node("t", taints=[taint])]}, pod("plain"))
    assert "tolerate taint gpu=only:NoSchedule" in texts(tainted)
    cordoned = explain({NODES: [node("c", unschedulable=True)]}, pod("plain"))
    assert cordoned.summary == "0/1 nodes are available: 1 node(s) were unschedulable."
    assert "uncordon node c" in texts(cordoned)


def test_two_changes_are_suggested_together_if_neither_suffices_alone():
    taint = {"key": "gpu", "value": "only", "effect": "NoSchedule"}
    subject = pod("doubly", nodeSelector={"rack": "r9"})
    found = explain({NODES: [node("t", taints=[taint])]}, subject)
    [both] = found.suggestions
    assert [part.kind for part in both.parts] == ["remove-selector", "tolerate-taint"]
    assert "remove node selector clause rack=r9 and tolerate" in both.text
    assert [rule["text"] for rule in found.nodes[0]["rules"]] == [
        "taint gpu=only:NoSchedule",
        "node selector rack=r9 (no node has label rack)",
    ]


def test_a_gang_one_device_short_says_exactly_so():
    pods = [pod(f"rank-{i}", group="train", claims=[f"c{i}"]) for i in range(15)]
    documents = {
        NODES: [node("a", cpu="32"), node("b", cpu="32")],
        DEVICE_CLASSES: [GPU_CLASS],
        RESOURCE_SLICES: [gpus("a", 7), gpus("b", 7)],
        RESOURCE_CLAIMS: [claim(f"c{i}") for i in range(15)],
        POD_GROUPS: [group("train", 15)],
        PODS: pods,
    }
    found = explain(documents, pods[3])
    [told] = found.children
    assert told.subject == "podgroup default/train"
    assert "gang needs 15, at most 14 fit" in told.summary
    assert told.facts["needed"] == 15
    assert told.facts["found_room"] == 14
    assert told.facts["proven"] is True
    assert "add 1 more device of class gpu on any node" in texts(told)
    assert "lower minCount of pod group train from 15 to 14" in texts(told)
    assert any("14 devices in the cluster, 14 match, 14 free" in r for r in told.reasons)
    documents[RESOURCE_SLICES] = [gpus("a", 8), gpus("b", 7)]
    [now] = explain(documents, pods[3]).children
    assert now.summary == "the group fits now; the scheduler has not placed it yet"


def test_a_claim_whose_selector_matches_nothing_names_the_selector():
    wanted = f'device.attributes["{DRIVER}"].model == "H300"'
    subject = pod("user", claims=["one"])
    documents = {
        NODES: [node("a")],
        DEVICE_CLASSES: [GPU_CLASS],
        RESOURCE_SLICES: [gpus("a", 2, model="H100")],
        RESOURCE_CLAIMS: [claim("one", [wanted])],
        PODS: [subject],
    }
    found = explain(documents, subject)
    assert found.summary == "0/1 nodes are available: 1 cannot allocate all claims."
    assert texts(found) == [
        f"change `{wanted}` of request gpu to H100",
        f"remove selector `{wanted}` of request gpu (there is model H100)",
    ]
    assert "2 devices in the cluster, 0 match, 0 free" in found.reasons[0]


def test_a_selector_that_does_not_compile_is_shown():
    subject = pod("user", claims=["one"])
    documents = {
        NODES: [node("a")],
        DEVICE_CLASSES: [GPU_CLASS],
        RESOURCE_SLICES: [gpus("a", 1)],
        RESOURCE_CLAIMS: [claim("one", ["nonsense("])],
        PODS: [subject],
    }
    found = explain(documents, subject)
    assert "claim default/one: selector #0: CEL compile error" in found.summary


def test_a_missing_class_is_named():
    subject = pod("user", claims=["one"])
    documents = {NODES: [node("a")], RESOURCE_CLAIMS: [claim("one")], PODS: [subject]}
    found = explain(documents, subject)
    assert "device class gpu does not exist" in found.summary
    assert found.reasons == ("no DeviceClass is called gpu; there is none",)
    documents[DEVICE_CLASSES] = [{**GPU_CLASS, "metadata": {"name": "gpus"}}]
    assert explain(documents, subject).reasons == (
        "no DeviceClass is called gpu; did you mean gpus?",
    )


def test_devices_in_use_are_counted_and_their_user_is_named():
    holder, subject = pod("holder", on="a", claims=["held"]), pod("user", claims=["one"])
    held = claim("held")
    result = {"request": "gpu", "driver": DRIVER, "pool": "a", "device": "gpu-0"}
    held["status"] = {
        "allocation": {"devices": {"results": [result]}},
        "reservedFor": [{"resource": "pods", "name": "holder", "uid": "uid-holder"}],
    }
    documents = {
        NODES: [node("a")],
        DEVICE_CLASSES: [GPU_CLASS],
        RESOURCE_SLICES: [gpus("a", 1)],
        RESOURCE_CLAIMS: [held, claim("one")],
        PODS: [holder, subject],
    }
    found = explain(documents, subject)
    assert "1 match, 0 free" in found.reasons[0]
    assert found.reasons[1] == "1 device: in use by claim default/held"
    assert "let pod default/holder on node a end" in texts(found)
    assert explain(documents, held).state == "Allocated"
    waiting = explain(documents, documents[RESOURCE_CLAIMS][1])
    assert waiting.children[0].subject == "pod default/user"
    on_node = explain(documents, documents[NODES][0])
    assert "pool gpu.example.com/a: 1 of 1 devices in use (gpu-0 by claim default/held)" in (
        on_node.reasons
    )


def test_a_job_tells_the_story_of_its_waiting_pods_once():
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "work", "namespace": "default", "uid": "uid-work"},
        "spec": {},
    }
    pods = [pod(f"work-{i}", cpu="9", owner=job) for i in range(3)]
    running = pod("work-r", on="a", owner=job)
    found = explain({NODES: [node("a")], PODS: [*pods, running], JOBS: [job]}, job)
    assert found.state == "Pending"
    assert found.summary == "its pods: 3 Pending, 1 Scheduled"
    [story] = found.children
    assert story.facts["same_for"] == 3


def owned(kind, name, owner=None, group="batch/v1"):
    refs = [{"uid": owner["metadata"]["uid"]}] if owner else []
    metadata = {"name": name, "namespace": "default", "uid": f"{kind}-{name}"}
    return {
        "apiVersion": group,
        "kind": kind,
        "metadata": metadata | {"ownerReferences": refs},
        "spec": {},
    }


def waits(document, reason, message):
    waiting = {"reason": reason, "message": message}
    status = {"name": "main", "state": {"waiting": waiting}}
    return document | {"status": {"phase": "Pending", "containerStatuses": [status]}}


def test_a_train_job_is_followed_down_to_containers_that_do_not_start():
    train_job = owned("TrainJob", "line", group="trainer.kubeflow.org/v1alpha1")
    job_set = owned("JobSet", "line", train_job, "jobset.x-k8s.io/v1alpha2")
    job = owned("Job", "line-node-0", job_set)
    pods = [
        waits(pod(f"line-{i}", on="ab"[i], owner=job), "ImagePullBackOff", f"line-{i}: no sshd")
        for i in range(2)
    ]
    documents = {NODES: [node("a"), node("b")], PODS: pods, JOBS: [job]}
    documents |= {JOB_SETS: [job_set], TRAIN_JOBS: [train_job]}
    found = explain(documents, train_job)
    assert found.state == "Running"
    [story] = found.children
    assert story.subject == "pod default/line-0"
    assert story.reasons == ("container main: ImagePullBackOff: line-0: no sshd",)
    [of_job] = explain(documents, job).children
    assert of_job.facts["same_for"] == 2
    # Containers that are only being made are no story.
    made = [waits(pod("line-0", on="a", owner=job), "ContainerCreating", "")]
    assert explain(documents | {PODS: made}, train_job).children == ()


def test_a_suspended_job_points_at_its_workload():
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "work", "namespace": "default", "uid": "uid-work"},
        "spec": {"suspend": True},
    }
    workload = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Workload",
        "metadata": {
            "name": "job-work",
            "namespace": "default",
            "uid": "uid-wl",
            "ownerReferences": [{"uid": "uid-work"}],
        },
        "spec": {"queueName": "team", "podSets": []},
    }
    found = explain({JOBS: [job], WORKLOADS: [workload]}, job)
    assert found.state == "Suspended"
    [waiting] = found.children
    assert waiting.subject == "workload default/job-work"
    assert "LocalQueue team doesn't exist" in waiting.summary


def test_explaining_changes_nothing_in_the_documents():
    subject = pod("big", cpu="6")
    documents = {NODES: [node("a")], PODS: [subject]}
    before = repr(documents)
    explain(documents, subject)
    assert repr(documents) == before


def broken_pool(driver, *names, count=1):
    """A slice on node a; with names that repeat the pool is invalid, with ``count`` incomplete."""
    return {
        "metadata": {"name": f"slice-of-{driver}"},
        "spec": {
            "driver": driver,
            "nodeName": "a",
            "pool": {"name": "p", "generation": 1, "resourceSliceCount": count},
            "devices": [{"name": name} for name in names],
        },
    }


def test_of_pools_that_give_nothing_those_are_named_that_have_such_devices():
    said = explain(
        {
            NODES: [node("a")],
            DEVICE_CLASSES: [GPU_CLASS],
            RESOURCE_SLICES: [
                broken_pool("other.example.com", "x", "x"),
                broken_pool(DRIVER, "g", count=3),
            ],
            RESOURCE_CLAIMS: [claim("c")],
            PODS: [waiting := pod("p", claims=["c"])],
        },
        waiting,
    )
    pool = f"pool {DRIVER}/p is incomplete: 1 of 3 slices"
    assert said.tightest == f"request gpu: 1 device: {pool}"
    [found] = said.devices
    assert found["failed"] == {pool: 1, f'class gpu `device.driver == "{DRIVER}"`': 2}


def test_a_gang_whose_topology_nobody_knows_is_told_what_would_help():
    gang = group("g", 2)
    gang["spec"]["schedulingConstraints"] = {"topology": [{"key": "example.com/rack"}]}
    documents = {
        NODES: [node("a")],
        POD_GROUPS: [gang],
        PODS: [pod(f"p{i}", group="g") for i in range(2)],
    }
    said = explain(documents, {"kind": "PodGroup", **gang})
    assert said.summary == "no node has the topology label example.com/rack"
    assert texts(said) == ["do without the topology constraint example.com/rack of pod group g"]


def test_a_pod_whose_devices_are_being_made_ready_says_which_and_what_is_missing():
    waiting = pod("p", claims=["c"])
    held = claim("c")
    result = {"request": "gpu", "driver": DRIVER, "pool": "a", "device": "gpu-0"}
    result |= {"bindingConditions": ["Attached", "Warm"], "bindingFailureConditions": ["Broken"]}
    warm = {"type": "Warm", "status": "True"}
    held["status"] = {
        "allocation": {"devices": {"results": [result]}},
        "reservedFor": [{"resource": "pods", "name": "p", "uid": "uid-p"}],
        "devices": [{**{k: result[k] for k in ("driver", "pool", "device")}, "conditions": [warm]}],
    }
    documents = {NODES: [node("a")], RESOURCE_CLAIMS: [held], PODS: [waiting]}
    said = explain(documents, waiting)
    assert said.state == "Pending"
    assert said.summary == "the pod has its devices and is bound once they are ready"
    assert said.reasons == ("claim c: device gpu-0 is not Attached",)


def test_a_resize_that_waits_is_part_of_the_account():
    running = pod("p", on="a")
    pending = {"type": "PodResizePending", "status": "True", "reason": "Deferred", "message": "cpu"}
    running["status"] = {"phase": "Running", "conditions": [pending]}
    said = explain({NODES: [node("a")], PODS: [running]}, running)
    assert said.reasons == ("resize Deferred: cpu",)


SHARES = {
    "metadata": {"name": "shares"},
    "spec": {
        "driver": DRIVER,
        "nodeName": "a",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "devices": [
            {
                "name": "n0",
                "allowMultipleAllocations": True,
                "capacity": {
                    "bw": {
                        "value": "10G",
                        "requestPolicy": {
                            "default": "1G",
                            "validRange": {"min": "1G", "max": "8G", "step": "500M"},
                        },
                    }
                },
            },
            {
                "name": "n1",
                "allowMultipleAllocations": True,
                "capacity": {
                    "bw": {
                        "value": "10G",
                        "requestPolicy": {"default": "1G", "validValues": ["1G", "3G"]},
                    }
                },
            },
        ],
    },
}


def asking_for(name, amount, used="0"):
    wanted = claim("c", capacity={"requests": {name: amount}})
    held = claim("held")
    result = {"request": "gpu", "driver": DRIVER, "pool": "p", "device": "n0"}
    result |= {"shareID": "s", "consumedCapacity": {"bw": used}}
    held["status"] = {"allocation": {"devices": {"results": [result]}}}
    documents = {
        NODES: [node("a")],
        DEVICE_CLASSES: [GPU_CLASS],
        RESOURCE_SLICES: [SHARES],
        RESOURCE_CLAIMS: [wanted, held],
        PODS: [waiting := pod("p", claims=["c"])],
    }
    return explain(documents, waiting)


def test_of_capacity_the_largest_share_is_advised_that_a_policy_and_what_is_left_allow():
    said = asking_for("bw", "9G")
    assert "2 devices" not in said.tightest
    failed = said.devices[0]["failed"]
    assert failed["capacity bw: a share is 8G at most, 9G wanted"] == 1
    assert failed["capacity bw: a share is 3G at most, 9G wanted"] == 1
    assert texts(said)[0] == "ask for 8G of capacity bw in request gpu"
    # 9.6G in use leave n0 less than its least share: then n1 has most, and only in its sizes.
    assert texts(asking_for("bw", "9G", "9600M"))[0] == "ask for 3G of capacity bw in request gpu"


def test_a_capacity_that_no_device_has_is_named():
    failed = asking_for("nosuch", "1").devices[0]["failed"]
    assert failed["capacity nosuch: the device has none of that name (it has bw)"] == 2


def of_scheduler(name, message="", **more):
    waiting = pod("p", schedulerName=name, **more)
    if message:
        condition = {"type": "PodScheduled", "status": "False", "message": message}
        waiting["status"] = {"conditions": [condition]}
    return explain({NODES: [node("a")], PODS: [waiting]}, waiting)


def test_pods_of_another_profile_have_an_account_too():
    said = of_scheduler("packer", "0/1 nodes are available: 1 Insufficient cpu.", cpu="9")
    assert said.summary == "0/1 nodes are available: 1 Insufficient cpu."
    assert "request at most 4 cpu (free on node a)" in texts(said)


def test_a_pod_that_only_its_own_profile_refuses_says_so():
    said = of_scheduler("picky", "0/1 nodes are available: 1 node(s) did not please.")
    assert said.summary == "0/1 nodes are available: 1 node(s) did not please."
    assert said.reasons == (
        "by the rules of the default profile it fits now; picky may have others",
    )


def test_a_scheduler_that_does_not_exist_is_named():
    said = of_scheduler("nobody")
    assert said.summary == "the pod asks for the scheduler nobody, which has not spoken of it"


def with_selector(expression, slices, nodes=("a",), classes=(GPU_CLASS,)):
    subject = pod("user", claims=["one"])
    documents = {
        NODES: [node(name) for name in nodes],
        DEVICE_CLASSES: list(classes),
        RESOURCE_SLICES: slices,
        RESOURCE_CLAIMS: [claim("one", [expression] if expression else ())],
        PODS: [subject],
    }
    return explain(documents, subject)


MODEL = f'device.attributes["{DRIVER}"].model'


def test_a_selector_that_fails_on_some_devices_is_accounted_for_and_mended():
    wanted = f'{MODEL} == "H100"'
    slices = [gpus("a", 2), gpus("b", 2, model="H100")]
    said = with_selector(wanted, slices, nodes=("a", "b"))
    assert f"{DRIVER}/a/gpu-0: CEL runtime error: no such key: model" in said.summary
    assert f"2 devices: selector `{wanted}`: no such key: model" in said.reasons
    [found] = said.devices
    assert found["clauses"][0]["error"] == "no such key: model"
    guarding, removing = said.suggestions
    assert guarding.kind == "guard-device-selector"
    assert f"ask `has({MODEL})` before `{wanted}` in request gpu" in guarding.text
    assert removing.kind == "remove-device-selector"
    # Done as it says, the pod fits.
    done = with_selector(f"has({MODEL}) && {wanted}", slices, nodes=("a", "b"))
    assert done.summary == "the pod fits now; the scheduler has not placed it yet"


def test_a_guard_is_not_advised_where_it_leaves_no_device():
    said = with_selector(f'{MODEL} == "H100"', [gpus("a", 2)])
    assert [s.kind for s in said.suggestions] == ["remove-device-selector"]
    said = with_selector(f"{MODEL} > 4", [gpus("a", 2, model="H100")])
    assert [s.kind for s in said.suggestions] == ["remove-device-selector"]
    assert any("no such overload" in line for line in said.reasons)


def test_the_selector_of_a_class_that_fails_is_named_and_mended():
    broken = {
        "metadata": {"name": "gpu"},
        "spec": {"selectors": [{"cel": {"expression": f'{MODEL} == "H100"'}}]},
    }
    slices = [gpus("a", 2), gpus("b", 2, model="H100")]
    said = with_selector("", slices, nodes=("a", "b"), classes=(broken,))
    assert [s.kind for s in said.suggestions] == ["guard-device-class", "relax-device-class"]
    assert said.suggestions[0].text.endswith("in DeviceClass gpu")
    broken["spec"]["selectors"][0]["cel"]["expression"] = f'has({MODEL}) && {MODEL} == "H100"'
    done = with_selector("", slices, nodes=("a", "b"), classes=(broken,))
    assert done.summary == "the pod fits now; the scheduler has not placed it yet"


def test_a_selector_that_does_not_compile_can_be_left_out():
    said = with_selector("nonsense(", [gpus("a", 1)])
    assert texts(said) == ["remove selector `nonsense(` of request gpu"]


def test_of_alternatives_the_count_of_each_is_advised():
    wanted = claim("one")
    wanted["spec"]["devices"]["requests"] = [
        {
            "name": "r",
            "firstAvailable": [
                {"name": name, "deviceClassName": "gpu", "count": count}
                for name, count in (("big", 4), ("small", 3))
            ],
        }
    ]
    documents = {
        NODES: [node("a")],
        DEVICE_CLASSES: [GPU_CLASS],
        RESOURCE_SLICES: [gpus("a", 2)],
        RESOURCE_CLAIMS: [wanted],
        PODS: [waiting := pod("p", claims=["one"])],
    }
    assert texts(explain(documents, waiting)) == [
        "ask for 2 instead of 4 in request r/big",
        "ask for 2 instead of 3 in request r/small",
        "add 1 more device of class gpu on node a",
    ]


def test_of_several_claims_it_is_said_which_one_to_change():
    documents = {
        NODES: [node("a")],
        DEVICE_CLASSES: [GPU_CLASS],
        RESOURCE_SLICES: [gpus("a", 3)],
        RESOURCE_CLAIMS: [claim("one", count=2), claim("two", count=2)],
        PODS: [waiting := pod("p", claims=["one", "two"])],
    }
    assert texts(explain(documents, waiting)) == [
        "ask for 1 instead of 2 in request gpu of claim one",
        "ask for 1 instead of 2 in request gpu of claim two",
        "add 1 more device of class gpu on node a",
    ]
    documents[RESOURCE_CLAIMS][0] = claim("one")
    documents[PODS] = [waiting]
    fits = "the pod fits now; the scheduler has not placed it yet"
    assert explain(documents, waiting).summary == fits


def affinity(*terms):
    found = [
        {"matchExpressions": [{"key": k, "operator": "In", "values": [v]} for k, v in t.items()]}
        for t in terms
    ]
    required = {"nodeSelectorTerms": found}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def test_a_clause_whose_absence_leaves_an_empty_term_is_not_advised():
    """A term without clauses matches no node: taking the last one out does not help."""
    rack = [node("a", labels={"rack": "r1"})]
    one = pod("p", affinity=affinity({"disk": "ssd"}))
    assert texts(explain({NODES: rack}, one)) == ["remove the required node affinity"]
    two = pod("p", affinity=affinity({"disk": "ssd"}, {"zone": "z"}))
    said = explain({NODES: rack}, two)
    assert texts(said) == ["remove the required node affinity"]
    assert said.reasons == (
        "node affinity disk=ssd (no node has label disk), or zone=z (no node has label zone): a",
    )
    both = pod("p", affinity=affinity({"disk": "ssd", "rack": "r1"}))
    assert texts(explain({NODES: rack}, both)) == [
        "remove the node affinity clause disk=ssd (no node has label disk)"
    ]


def test_a_misspelt_node_affinity_is_put_right():
    misspelt = pod("p", affinity=affinity({"rack": "rack-one"}))
    said = explain({NODES: [node("a", labels={"rack": "rack-1ne"})]}, misspelt)
    assert texts(said)[0] == "change the node affinity clause rack=rack-one to rack=rack-1ne"


FITS = "the pod fits now; the scheduler has not placed it yet"


def crowded(*others, **spec):
    """A pod that wants three of the four cores of the only node."""
    waiting = pod("p", cpu="3", **spec)
    documents = {NODES: [node("a")], PODS: [waiting, *others]}
    return explain(documents, waiting)


def test_whom_the_scheduler_evicts_is_part_of_the_account():
    said = crowded(pod("h", cpu="3", on="a"), priority=10)
    assert "preemption makes room: pod default/h on node a would be evicted" in said.reasons
    assert not {"raise-priority", "allow-preemption"} & {s.kind for s in said.suggestions}


def test_preemption_that_is_not_allowed_is_named_with_what_would_allow_it():
    never = crowded(pod("h", cpu="3", on="a"), priority=10, preemptionPolicy="Never")
    assert "preemption: not eligible due to preemptionPolicy=Never." in never.reasons
    assert never.facts["preemption"] == "not eligible due to preemptionPolicy=Never."
    assert never.suggestions[-1].kind == "allow-preemption"
    assert texts(never)[-1] == (
        "set preemptionPolicy to PreemptLowerPriority: pod default/h on node a would be evicted"
    )
    # Neither the policy nor a priority below the holder's would do alone.
    equal = crowded(pod("h", cpu="3", on="a", priority=10), priority=10, preemptionPolicy="Never")
    assert "allow-preemption" not in {s.kind for s in equal.suggestions}


def test_the_least_priority_with_which_preemption_helps_is_advised():
    holders = [pod("low", cpu="1", on="a", priority=5), pod("high", cpu="3", on="a", priority=50)]
    said = crowded(*holders, priority=5)
    raising = said.suggestions[-1]
    assert (raising.kind, raising.amount) == ("raise-priority", 51)
    assert raising.text == (
        "raise the priority from 5 above 50: pod default/high on node a would be evicted"
    )
    done = crowded(*holders, priority=51)
    assert "preemption makes room: pod default/high on node a would be evicted" in done.reasons


def test_room_that_was_promised_to_others_counts_as_taken():
    other = pod("other", cpu="3", priority=100)
    other["status"] = {"nominatedNodeName": "a"}
    said = crowded(other)
    assert said.summary == "0/1 nodes are available: 1 Insufficient cpu."
    kept = "room on node a is kept for pod default/other, which was promised it"
    assert kept in said.reasons
    assert texts(said)[-1] == (
        "raise the priority from 0 above 100:"
        " the room promised to pod default/other is then its own"
    )
    assert crowded(other, priority=101).summary == FITS
    assert explain({NODES: [node("a")], PODS: [other]}, other).summary == FITS


def test_a_gang_that_may_not_preempt_is_told_so():
    ranks = [pod(f"r{i}", cpu="2", group="g", preemptionPolicy="Never") for i in range(2)]
    for one in ranks:
        one["spec"]["priority"] = 10
    gang = group("g", 2)
    documents = {NODES: [node("a")], PODS: [*ranks, pod("h", on="a")], POD_GROUPS: [gang]}
    said = explain(documents, gang)
    assert "preemption: not eligible due to preemptionPolicy=Never." in said.reasons
    assert said.suggestions[-1].kind == "allow-preemption"


def test_a_priority_is_named_however_many_others_there_are():
    """The least that helps is far above the subject's own."""
    small = [pod(f"s{i}", cpu="100m", on="a", priority=i + 1) for i in range(9)]
    said = crowded(*small, pod("high", cpu="3", on="a", priority=50), priority=0)
    assert said.suggestions[-1].amount == 51
    assert "above 50: pod default/high" in said.suggestions[-1].text


def test_what_preemption_was_not_asked_is_said(monkeypatch):
    """Nobody is to read that no eviction helps where that was not looked at."""
    gang = group("g", 2)
    ranks = [pod(f"r{i}", cpu="2", group="g") for i in range(2)]
    running = [pod(f"h{i}", cpu="2", on="a") for i in range(2)]
    documents = {NODES: [node("a")], PODS: [*ranks, *running], POD_GROUPS: [gang]}
    assert explain(documents, gang).suggestions[-1].kind == "raise-priority"
    monkeypatch.setattr(preempting, "GANG_VICTIMS", 1)
    told = explain(documents, gang)
    assert "raise-priority" not in {s.kind for s in told.suggestions}
    assert told.reasons[-1] == (
        "whether a higher priority would help was not tried: 2 pods have a node, and more than 1"
        " take too long"
    )


def test_nodes_on_which_no_eviction_was_tried_are_counted(monkeypatch):
    """A port has to be tried; an eviction frees it on the last of five nodes alone."""

    def with_port(name, on="", priority=0):
        document = pod(name, cpu="1", on=on, priority=priority)
        document["spec"]["containers"][0]["ports"] = [{"containerPort": 80, "hostPort": 80}]
        return document

    names = [f"n{i}" for i in range(5)]
    holders = [with_port(f"h-{n}", on=n, priority=1 if n == "n4" else 9) for n in names]
    fillers = [pod(f"f-{n}", cpu="1", on=n, priority=1) for n in names]
    waiting = with_port("p", priority=5)
    documents = {NODES: [node(n) for n in names], PODS: [*holders, *fillers, waiting]}
    untried = "whether evictions would help was tried on 2 nodes; the scheduler looks at 5"
    told = explain(documents, waiting)
    assert untried not in told.reasons
    assert any("pod default/h-n4 on node n4 would be evicted" in line for line in told.reasons)
    monkeypatch.setattr(preempting, "NODES_SIMULATED", 2)
    told = explain(documents, waiting)
    assert untried in told.reasons
    assert "preemption" not in told.facts


def test_a_claim_that_is_missing_is_told_what_there_is_and_what_else_is_wrong():
    waiting = pod("p", claims=["gone"], nodeSelector={"rack": "r9"})
    said = explain({NODES: [node("a")], PODS: [waiting], RESOURCE_CLAIMS: [claim("gon2")]}, waiting)
    assert said.summary == 'could not find ResourceClaim "default/gone"'
    assert said.reasons == (
        "no ResourceClaim is called gone; did you mean gon2?",
        "and besides that: 0/1 nodes are available: 1 node(s) didn't match Pod's node"
        " affinity/selector.",
    )


def test_a_template_that_is_missing_or_not_used_yet_is_told_of():
    waiting = pod("p")
    waiting["spec"]["resourceClaims"] = [{"name": "g", "resourceClaimTemplateName": "tmpl"}]
    documents = {NODES: [node("a")], PODS: [waiting], RESOURCE_CLAIM_TEMPLATES: []}
    said = explain(documents, waiting)
    assert said.summary == 'pod "default/p": ResourceClaim not created yet'
    assert said.reasons[0] == "no ResourceClaimTemplate is called tmpl; there is none"
    made = {"metadata": {"name": "tmpl", "namespace": "default"}, "spec": {}}
    said = explain(documents | {RESOURCE_CLAIM_TEMPLATES: [made]}, waiting)
    assert said.reasons == (
        "claim g of pod p is to be made from ResourceClaimTemplate tmpl, which has not been done"
        " yet",
    )


def full(users, on=""):
    held = claim("full")
    result = {"request": "gpu", "driver": DRIVER, "pool": "a", "device": "gpu-0"}
    held["status"] = {
        "allocation": {"devices": {"results": [result]}},
        "reservedFor": [
            {"resource": "pods", "name": f"p{i}", "uid": f"uid-p{i}"} for i in range(users)
        ],
    }
    large = node("a")
    large["status"]["allocatable"]["pods"] = "300"
    return {
        NODES: [large],
        DEVICE_CLASSES: [GPU_CLASS],
        RESOURCE_SLICES: [gpus("a", 1)],
        RESOURCE_CLAIMS: [held],
        PODS: [pod(f"p{i}", cpu="0", on="a", claims=["full"]) for i in range(users) if on],
    }


def test_a_claim_with_256_users_says_so_and_who_could_go():
    waiting = pod("p", claims=["full"])
    said = explain(full(256, on="a"), waiting)
    assert said.summary == '0/1 nodes are available: resourceclaim "full" in use.'
    assert said.reasons[0] == ("claim full has 256 users, the most that it can have: p0, p1, p2 …")
    assert [s.kind for s in said.suggestions] == ["free-pod"]
    assert explain(full(255, on="a"), waiting).summary == FITS


def test_users_that_are_no_pods_count_too():
    """Upstream counts status.reservedFor, whoever is named there."""
    waiting = pod("p", claims=["full"])
    assert "in use" in explain(full(256), waiting).summary
    assert explain(full(256), pod("p3", claims=["full"])).summary == FITS  # is one of them


def test_a_claim_that_is_being_deleted_says_until_when():
    held = full(2)
    held[RESOURCE_CLAIMS][0]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    said = explain(held, pod("p", claims=["full"]))
    assert said.reasons[0] == ("claim full is being deleted, and gone once p0, p1 no longer use it")


def test_a_group_that_does_not_exist_is_told_what_there_is():
    waiting = pod("p", group="trian")
    said = explain({NODES: [node("a")], PODS: [waiting], POD_GROUPS: [group("train", 2)]}, waiting)
    assert said.reasons == ("no PodGroup is called trian; did you mean train?",)


def test_a_class_that_makes_no_volumes_is_not_said_to_be_full():
    waiting = pod("p")
    waiting["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
    owner = {
        "metadata": {"name": "local"},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    wanted = {
        "metadata": {"name": "data", "namespace": "default"},
        "spec": {"storageClassName": "local", "resources": {"requests": {"storage": "1Gi"}}},
    }
    documents = {
        NODES: [node("a")],
        PODS: [waiting],
        STORAGE_CLASSES: [owner],
        PERSISTENT_VOLUME_CLAIMS: [wanted],
    }
    said = explain(documents, waiting)
    text = "no volume of 1Gi for claim data: no free volume suits it, and its class makes none"
    assert said.reasons == (f"{text}: a",)
    assert said.tightest == f"{text}: without it 1 more node would do"
    elsewhere = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}
    there = {
        "metadata": {"name": "pv"},
        "status": {"phase": "Available"},
        "spec": {
            "storageClassName": "local",
            "capacity": {"storage": "1Gi"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [elsewhere]}},
        },
    }
    said = explain(documents | {PERSISTENT_VOLUMES: [there]}, waiting)
    assert ": 1 free volume suits it, elsewhere, and its class makes none" in said.tightest
    wanted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    told = explain(documents, waiting).reasons[0]
    assert told == "volume claim data is being deleted, and gone once no other pod uses it"


def asking(name, amount="1", **spec):
    waiting = pod("p", **spec)
    waiting["spec"]["containers"][0]["resources"]["requests"][name] = amount
    return waiting


def test_a_resource_that_no_node_has_is_put_right():
    able = node("a")
    able["status"]["allocatable"]["example.com/gpu"] = "2"
    said = explain({NODES: [able]}, asking("example.com/gpux"))
    hint = "no node has example.com/gpux; did you mean example.com/gpu?"
    assert said.reasons == (f"Insufficient example.com/gpux ({hint}): a",)
    assert texts(said)[0] == "request example.com/gpu instead of example.com/gpux"
    assert explain({NODES: [able]}, asking("example.com/gpu")).summary == FITS
    # What nodes do have, if not enough of it, is no slip of the pen.
    assert "did you mean" not in explain({NODES: [able]}, asking("example.com/gpu", "3")).tightest


def test_a_class_that_is_asked_for_as_a_resource_and_is_not_there_is_named():
    wanted = asking("deviceclass.resource.kubernetes.io/gpus")
    said = explain({NODES: [node("a")], DEVICE_CLASSES: [GPU_CLASS]}, wanted)
    assert "(there is no DeviceClass gpus; did you mean gpu?)" in said.reasons[0]
    assert not any("1 more deviceclass" in text for text in texts(said))


def labelled(document, **labels):
    document["metadata"]["labels"] = labels
    return document


def test_a_topology_key_that_no_node_has_is_put_right():
    racks = [node("a", labels={"rack": "r1"}), node("b", labels={"rack": "r2"})]
    spread = {"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "topologyKey": "rak"}
    spread["labelSelector"] = {"matchLabels": {"app": "web"}}
    waiting = labelled(pod("p", topologySpreadConstraints=[spread]), app="web")
    said = explain({NODES: racks}, waiting)
    assert texts(said)[0] == "spread over rack instead of rak"
    assert "(no node has label rak; did you mean rack?)" in said.tightest
    spread["topologyKey"] = "rack"
    assert explain({NODES: racks}, waiting).summary == FITS


def test_a_pod_affinity_to_nobody_says_so():
    term = {"topologyKey": "rack", "labelSelector": {"matchLabels": {"app": "db"}}}
    near = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    racks = [node("a", labels={"rack": "r1"})]
    said = explain({NODES: racks}, pod("p", affinity=near))
    assert "(no pod that has a node is one of these)" in said.reasons[0]
    there = [labelled(pod("db", cpu="4", on="a"), app="db")]
    said = explain(
        {NODES: [*racks, node("b", labels={"rack": "r2"})], PODS: there}, pod("p", affinity=near)
    )
    assert not any("one of these" in line for line in said.reasons)


def test_gates_are_told_with_what_else_is_in_the_way():
    gates = [{"name": "example.com/budget"}]
    said = explain({NODES: [node("a")]}, pod("p", schedulingGates=gates))
    assert texts(said) == ["remove the scheduling gate example.com/budget: the pod fits now"]
    [command] = said.commands.values()
    assert command.startswith("kubectl patch pod p -n default --type merge")
    said = explain({NODES: [node("a")]}, pod("p", cpu="9", schedulingGates=gates))
    assert said.reasons == (
        "scheduling gate example.com/budget",
        "and besides that: 0/1 nodes are available: 1 Insufficient cpu.",
    )
    assert texts(said) == []


def test_of_a_scheduler_that_is_not_there_the_default_one_is_advised():
    assert texts(of_scheduler("nobody")) == [
        "name the scheduler default-scheduler instead: the pod fits now"
    ]
    said = of_scheduler("nobody", cpu="9")
    assert texts(said) == []
    assert said.reasons == ("and besides that: 0/1 nodes are available: 1 Insufficient cpu.",)


def test_a_job_whose_pods_cannot_be_made_says_why_once():
    job = owned("Job", "work")
    about = {"kind": "Job", "namespace": "default", "name": "work", "uid": "Job-work"}
    why = 'pods "work-{}" is forbidden: no PriorityClass with name nope was found'
    documents = {
        JOBS: [job],
        EVENTS: [
            {
                "metadata": {"creationTimestamp": f"2026-01-01T00:00:0{i}Z"},
                "type": "Warning",
                "reason": "FailedCreate",
                "message": f"{prefix}Error creating: {why.format(i)}",
                "involvedObject": about,
            }
            for i, prefix in enumerate(["", "", "(combined from similar events): "])
        ],
    }
    said = explain(documents, job)
    assert (said.state, said.summary) == ("Pending", "nothing has been made for it yet")
    assert said.reasons == (f"FailedCreate: Error creating: {why.format(2)}",)


def test_a_pool_of_which_slices_are_missing_is_to_be_completed():
    part = gpus("a", 2)
    part["spec"]["pool"]["resourceSliceCount"] = 3
    said = with_selector("", [part])
    assert texts(said)[0] == (f"let the driver publish all 3 slices of pool {DRIVER}/a: 1 is there")
    rest = [gpus("a", 0) | {"metadata": {"name": f"rest-{i}"}} for i in range(2)]
    for one in rest:
        one["spec"] = {**one["spec"], "pool": part["spec"]["pool"]}
    assert with_selector("", [part, *rest]).summary == FITS
    # With devices of another model no completion helps.
    other = with_selector(f'{MODEL} == "H100"', [part | {"spec": {**part["spec"]}}])
    assert "complete-pool" not in {s.kind for s in other.suggestions}
