"""What pods request, and how jobs become pod sets and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.base.quantity import QuantityError
from kubarium.engine.queueing.amounts import amount_of, show_amount
from kubarium.view.queueing.jobs import (
    JOB,
    JOBSET,
    PodSetConflictError,
    PodSetInfo,
    info_of_pod_set,
    terminal_indexes,
    workload_name,
)
from kubarium.view.queueing.requests import pod_requests


def container(requests=None, limits=None, **more):
    resources = {}
    if requests:
        resources["requests"] = requests
    if limits:
        resources["limits"] = limits
    return {"name": "c", "resources": resources, **more}


def test_containers_add_up_and_a_limit_stands_for_a_missing_request():
    spec = {"containers": [container({"cpu": "1"}), container(limits={"cpu": "250m"})]}
    assert pod_requests(spec) == {"cpu": 1250}


def test_an_init_container_counts_as_a_maximum_with_the_sidecars_before_it():
    spec = {
        "containers": [container({"cpu": "1"})],
        "initContainers": [
            container({"cpu": "200m"}, restartPolicy="Always"),
            container({"cpu": "3"}),
        ],
    }
    assert pod_requests(spec) == {"cpu": 3200}
    spec["initContainers"].reverse()
    assert pod_requests(spec) == {"cpu": 3000}


def test_pod_level_resources_replace_the_sum_and_overhead_comes_on_top():
    spec = {
        "containers": [container({"cpu": "1", "memory": "1Gi"})],
        "resources": {"requests": {"cpu": "4"}},
        "overhead": {"cpu": "100m"},
    }
    assert pod_requests(spec) == {"cpu": 4100, "memory": 2**30}


def test_a_text_that_is_no_quantity_is_named():
    with pytest.raises(QuantityError, match="lots"):
        pod_requests({"containers": [container({"cpu": "lots"})]})


@given(st.sampled_from(["cpu", "memory", "pods", "example.com/gpu"]), st.integers(0, 10**15))
def test_an_amount_survives_being_shown(resource, amount):
    assert amount_of(resource, show_amount(resource, amount)) == amount


def job(**spec):
    template = {"spec": {"containers": [container({"cpu": "1"})], "nodeSelector": {"a": "b"}}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "j", "namespace": "ns", "uid": "u", "annotations": {}},
        "spec": {"suspend": True, "template": template, **spec},
    }


def jobset():
    template = {"spec": {"parallelism": 3, "completions": 2, "template": job()["spec"]["template"]}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "s", "namespace": "ns", "uid": "u"},
        "spec": {
            "suspend": True,
            "replicatedJobs": [
                {"name": "driver", "replicas": 1, "template": template},
                {"name": "workers", "replicas": 4, "template": template},
            ],
        },
    }


@pytest.mark.parametrize(
    ("spec", "count"),
    [({}, 1), ({"parallelism": 3}, 3), ({"parallelism": 5, "completions": 2}, 2)],
)
def test_a_job_is_one_pod_set_of_what_runs_side_by_side(spec, count):
    assert [(ps["name"], ps["count"]) for ps in JOB.pod_sets(job(**spec))] == [("main", count)]


def test_a_jobset_is_one_pod_set_for_each_replicated_job():
    found = [(ps["name"], ps["count"]) for ps in JOBSET.pod_sets(jobset())]
    assert found == [("driver", 2), ("workers", 8)]


@pytest.mark.parametrize(("kind", "document"), [(JOB, job()), (JOBSET, jobset())])
def test_starting_and_restoring_gives_the_templates_back(kind, document):
    sets = kind.pod_sets(document)
    extra = [
        PodSetInfo(
            ps["name"],
            ps["count"],
            {"queue": "q"},
            {"note": "n"},
            {"pool": "p"},
            ({"key": "spot", "operator": "Exists"},),
        )
        for ps in sets
    ]
    started = kind.started(document, extra)
    assert not kind.is_suspended(started)
    assert started["spec"] != document["spec"]
    back = kind.restored(started, [info_of_pod_set(ps) for ps in sets])
    after = kind.pod_sets(back)
    for one, other in zip(sets, after, strict=True):
        assert one["template"]["spec"] == other["template"]["spec"]
        assert not other["template"].get("metadata")
    assert document["spec"]["suspend"] is True  # the input is as it was


def test_a_selector_that_says_otherwise_is_a_conflict():
    with pytest.raises(PodSetConflictError, match="conflict for key=a, value1=b, value2=x"):
        JOB.started(job(), [PodSetInfo("main", 1, node_selector={"a": "x"})])


def test_the_name_of_a_workload_depends_on_the_uid():
    one, other = job(), job()
    other["metadata"] = {**other["metadata"], "uid": "another"}
    assert workload_name(one, JOB.resource) == workload_name(job(), JOB.resource)
    assert workload_name(one, JOB.resource) != workload_name(other, JOB.resource)
    long = {**one, "metadata": {**one["metadata"], "name": "x" * 300}}
    assert len(workload_name(long, JOB.resource)) == 253


@pytest.mark.parametrize(
    ("completed", "failed", "completions", "count"),
    [("", "", 4, 0), ("0-2", "", 4, 3), ("0-2,7", "2-3", 6, 4), ("1-x", "3", 9, 1)],
)
def test_terminal_indexes_are_counted_once_and_only_below_completions(
    completed, failed, completions, count
):
    assert terminal_indexes(completed, failed, completions) == count


def test_pods_are_reclaimable_when_less_work_is_left_than_runs_side_by_side():
    def reclaimable(succeeded, **spec):
        document = job(**spec) | {"status": {"succeeded": succeeded}}
        return JOB.reclaimable(document)

    assert reclaimable(1, parallelism=3, completions=10) == []
    assert reclaimable(8, parallelism=3, completions=10) == [{"name": "main", "count": 1}]
    assert reclaimable(1, parallelism=1, completions=1) == []
