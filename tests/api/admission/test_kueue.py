"""Kueue's webhooks: what they fill in and what they refuse."""

import pytest

from kubarium.api.admission.kueue import default, validate
from kubarium.api.resource import copy_document

V = "kueue.x-k8s.io/v1beta2"


def job(queue="lq", suspend=False, annotations=None, labels=None, kind="Job", **spec):
    version = {"Job": "batch/v1", "JobSet": "jobset.x-k8s.io/v1alpha2"}[kind]
    named = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": "j",
            "labels": {**named, **(labels or {})},
            "annotations": annotations or {},
        },
        "spec": {"suspend": suspend, **spec},
    }


def cluster_queue(**spec):
    group = {
        "coveredResources": ["cpu"],
        "flavors": [{"name": "f", "resources": [{"name": "cpu", "nominalQuota": "2"}]}],
    }
    return {
        "apiVersion": V,
        "kind": "ClusterQueue",
        "metadata": {"name": "cq"},
        "spec": {"resourceGroups": [group], **spec},
    }


def texts(new, old=None, **more):
    return [str(error) for error in validate(new, old, **more)]


@pytest.mark.parametrize("kind", ["Job", "JobSet"])
def test_a_job_with_a_queue_starts_suspended(kind):
    made = job(kind=kind)
    default(made)
    assert made["spec"]["suspend"] is True
    free = job(queue="", kind=kind)
    default(free)
    assert free["spec"]["suspend"] is False


def test_the_default_queue_is_named_where_it_exists():
    made = job(queue="")
    default(made, default_queue=True)
    assert made["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "default"}
    assert made["spec"]["suspend"] is True


def test_a_job_of_a_jobset_follows_its_owner():
    made = job()
    owner = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "controller": True}
    made["metadata"]["ownerReferences"] = [owner]
    default(made, default_queue=True)
    assert made["spec"]["suspend"] is False


def test_a_namesake_of_another_group_is_left_alone():
    made = {"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job", "metadata": {}, "spec": {}}
    default(made, default_queue=True)
    assert made["spec"] == {}
    assert validate(made, None) == []


@pytest.mark.parametrize("kind", ["ClusterQueue", "ResourceFlavor"])
def test_what_can_be_in_use_gets_its_finalizer_once(kind):
    made = {"apiVersion": V, "kind": kind, "metadata": {"name": "x", "finalizers": ["mine"]}}
    default(made)
    default(made)
    assert made["metadata"]["finalizers"] == ["mine", "kueue.x-k8s.io/resource-in-use"]


def test_the_queue_of_a_running_job_is_fixed():
    complaint = "metadata.labels[kueue.x-k8s.io/queue-name]: Invalid value: "
    assert texts(job("b"), job("a")) == [f'{complaint}"b": field is immutable']
    assert texts(job("b", suspend=True), job("a")) == []
    [error] = texts(job("", suspend=True), job("a", suspend=True), default_queue=True)
    assert "must not be empty in namespace with default queue" in error


def test_bad_labels_and_annotations_are_named():
    assert "queue-name" in texts(job("Not_A_Name"))[0]
    limit = "kueue.x-k8s.io/max-exec-time-seconds"
    assert "should be greater than 0" in texts(job(labels={limit: "0"}))[0]
    assert '"soon"' in texts(job(labels={limit: "soon"}))[0]
    minimum = "kueue.x-k8s.io/job-min-parallelism"
    made = job(annotations={minimum: "5"}, parallelism=5)
    assert texts(made) == [
        f"metadata.annotations[{minimum}]: Invalid value: 5: should be between 0 and 4"
    ]
    assert texts(job(annotations={minimum: "2"}, parallelism=5)) == []


def test_a_priority_class_stays_on_a_job():
    label = {"kueue.x-k8s.io/priority-class": "p"}
    assert "cannot be removed" in texts(job(suspend=True), job(suspend=True, labels=label))[0]
    assert "cannot be added" in texts(job(labels=label), job())[0]


def group_of(**quota):
    return {
        "coveredResources": ["cpu"],
        "flavors": [{"name": "f", "resources": [{"name": "cpu", "nominalQuota": "2", **quota}]}],
    }


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (
            {"resourceGroups": [group_of(borrowingLimit="1")]},
            "spec.resourceGroups[0].flavors[0].resources[0].borrowingLimit: Invalid value: "
            '"1": must be nil when cohort is empty',
        ),
        (
            {"resourceGroups": [group_of(lendingLimit="3")], "cohortName": "c"},
            'lendingLimit: Invalid value: "3": must be less than or equal to the nominalQuota',
        ),
        (
            {"resourceGroups": [group_of(nominalQuota="-1")]},
            'nominalQuota: Invalid value: "-1": must be greater than or equal to 0',
        ),
        (
            {"resourceGroups": [group_of(), group_of()]},
            'spec.resourceGroups[1].coveredResources[0]: Duplicate value: "cpu"',
        ),
        (
            {"resourceGroups": [group_of(name="memory")]},
            'name: Invalid value: "memory": must match the name in coveredResources',
        ),
        (
            {"preemption": {"borrowWithinCohort": {"policy": "LowerPriority"}}},
            "reclaimWithinCohort=Never and borrowWithinCohort.Policy!=Never",
        ),
        (
            {"flavorFungibility": {"preference": "PreemptionOverBorrowing"}},
            "requires both whenCanBorrow and whenCanPreempt to be TryNextFlavor",
        ),
        ({"fairSharing": {"weight": "-1"}}, "must be greater than or equal to 0"),
        (
            {
                "resourceGroups": [group_of()],
                "admissionChecksStrategy": {"admissionChecks": [{"name": "c", "onFlavors": ["g"]}]},
            },
            'onFlavors[0]: Unsupported value: "g": supported values: "f"',
        ),
        (
            {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}},
            "spec.namespaceSelector: Invalid value",
        ),
    ],
)
def test_a_cluster_queue_that_cannot_work_is_refused(spec, complaint):
    assert any(complaint in text for text in texts(cluster_queue(**spec)))


def test_a_cluster_queue_of_the_labs_is_fine():
    assert texts(cluster_queue(preemption={"reclaimWithinCohort": "Any"})) == []


def test_a_flavor_with_twice_the_same_taint_is_refused():
    taint = {"key": "k", "value": "v", "effect": "NoSchedule"}
    made = {
        "apiVersion": V,
        "kind": "ResourceFlavor",
        "metadata": {"name": "f"},
        "spec": {"nodeTaints": [taint, taint], "nodeLabels": {"bad key": "v"}},
    }
    found = texts(made)
    assert any("taints must be unique by key and effect pair" in text for text in found)
    assert any("spec.nodeLabels" in text for text in found)


def workload(**status):
    container = {"name": "c", "resources": {"requests": {"cpu": "1"}}}
    return {
        "apiVersion": V,
        "kind": "Workload",
        "metadata": {"name": "w"},
        "spec": {
            "podSets": [
                {"name": "main", "count": 2, "template": {"spec": {"containers": [container]}}}
            ]
        },
        "status": status,
    }


RESERVED = {"conditions": [{"type": "QuotaReserved", "status": "True"}]}
ADMISSION = {
    "clusterQueue": "cq",
    "podSetAssignments": [
        {"name": "main", "count": 2, "flavors": {"cpu": "f"}, "resourceUsage": {"cpu": "2"}}
    ],
}


def test_a_reservation_needs_an_admission_that_adds_up():
    [error] = texts(workload(**RESERVED))
    assert error == (
        "status.admission: Required value: must be set while the QuotaReserved condition is true"
    )
    assert texts(workload(**RESERVED, admission=ADMISSION)) == []
    odd = copy_document(ADMISSION)
    odd["podSetAssignments"][0]["resourceUsage"]["cpu"] = "1001m"
    assert "is not a multiple of 2" in texts(workload(**RESERVED, admission=odd))[0]
    stranger = copy_document(ADMISSION)
    stranger["podSetAssignments"][0]["name"] = "other"
    assert "Not found" in texts(workload(**RESERVED, admission=stranger))[0]


def test_what_is_reserved_does_not_change():
    old = workload(**RESERVED, admission=ADMISSION)
    new = copy_document(old)
    new["spec"]["podSets"][0]["template"]["spec"]["containers"][0]["image"] = "other"
    assert texts(new, old)[0].startswith("spec.podSets[0]: Invalid value")
    moved = copy_document(old)
    moved["status"]["admission"]["clusterQueue"] = "elsewhere"
    assert any(text.startswith("status.admission: Invalid") for text in texts(moved, old))


def test_reclaimable_pods_only_grow():
    old = workload(**RESERVED, admission=ADMISSION, reclaimablePods=[{"name": "main", "count": 1}])
    assert "cannot be removed" in texts(workload(**RESERVED, admission=ADMISSION), old)[0]
    too_many = workload(reclaimablePods=[{"name": "main", "count": 3}])
    assert "should be less or equal to 2" in texts(too_many)[0]


def test_the_pods_resource_is_reserved():
    made = workload()
    container = made["spec"]["podSets"][0]["template"]["spec"]["containers"][0]
    container["resources"]["requests"]["pods"] = "1"
    assert "the key is reserved for internal kueue use" in texts(made)[0]
