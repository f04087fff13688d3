"""Exclusive placement of JobSets: one topology domain for each Job, decided as one."""

import pytest
import yaml

from kubarium.api.kinds import JOB_SETS, JOBS, NODES, POD_GROUPS, PODS
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.testing import run_virtual

RACK = "example.com/rack"
POOL = "cloud.google.com/gke-nodepool"
EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
BY_LABEL = "alpha.jobset.sigs.k8s.io/node-selector"


def racks(*sizes, key=RACK, cpu="4"):
    """A rack of so many simulated nodes for each number."""
    pools = [
        NodePool(
            f"r{n}", size, "simulated", {"cpu": cpu, "memory": "8Gi", "pods": "20"}, {key: f"r{n}"}
        )
        for n, size in enumerate(sizes)
    ]
    return ClusterFile(pools)


def jobset(name="js", replicas=2, pods=2, cpu="3", seconds="1h", **rest):
    container = {
        "name": "main",
        "image": "busybox",
        "resources": {"requests": {"cpu": cpu}},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name, "annotations": {EXCLUSIVE: RACK} | rest.pop("annotations", {})},
        "spec": {
            "replicatedJobs": [
                {
                    "name": "w",
                    "replicas": replicas,
                    "template": {
                        "spec": {
                            "parallelism": pods,
                            "completions": pods,
                            "template": {
                                "metadata": {"annotations": {"kubarium.dev/run-duration": seconds}},
                                "spec": {
                                    "restartPolicy": "Never",
                                    "containers": [container],
                                    **rest.pop("pod", {}),
                                },
                            },
                        }
                    },
                }
            ],
            **rest,
        },
    }


async def racks_of(cluster, key=RACK):
    """Racks of the pods that have a node, by Job; "" for pods that wait."""
    labels = {
        node["metadata"]["name"]: node["metadata"]["labels"][key]
        for node in (await cluster.client.list(NODES)).items
    }
    found = {}
    for pod in await cluster.pods():
        job = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]
        node = pod["spec"].get("nodeName", "")
        found.setdefault(job, set()).add(labels.get(node, ""))
    return found


def test_each_job_gets_a_rack_that_takes_all_of_it():
    async def story(cluster):
        await cluster.apply(jobset(pods=3))
        await cluster.clock.sleep(5)
        assert await racks_of(cluster) == {"js-w-0": {"r1"}, "js-w-1": {"r2"}}
        refused = [e for e in await cluster.events() if "follower" in e["message"]]
        assert refused == []

    # The first rack has room for a leader, but not for the others of its Job.
    run_virtual(story, file=racks(2, 3, 4))


def test_a_job_waits_whole_until_a_rack_is_free():
    async def story(cluster):
        await cluster.apply(jobset("first", replicas=2, seconds="60s"))
        await cluster.clock.sleep(5)
        await cluster.apply(jobset("second", replicas=1, cpu="100m"))
        await cluster.clock.sleep(5)
        assert await racks_of(cluster) == {
            "first-w-0": {"r0"},
            "first-w-1": {"r1"},
            "second-w-0": {""},
        }
        await cluster.until_true(JOB_SETS, "first", "Completed", timeout_s=200)
        await cluster.clock.sleep(30)
        assert (await racks_of(cluster))["second-w-0"] in ({"r0"}, {"r1"})

    run_virtual(story, file=racks(2, 2))


def test_pods_show_what_upstreams_webhook_would_write():
    async def story(cluster):
        await cluster.apply(jobset(replicas=1))
        await cluster.clock.sleep(5)
        leader, follower = await cluster.pods()
        assert leader["metadata"]["labels"]["jobset.sigs.k8s.io/priority"] == "0"
        assert follower["metadata"]["labels"]["jobset.sigs.k8s.io/priority"] == "0"
        key = leader["metadata"]["labels"]["jobset.sigs.k8s.io/job-key"]
        affinity = leader["spec"]["affinity"]
        [near] = affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        [apart] = affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert near["topologyKey"] == apart["topologyKey"] == RACK
        assert near["labelSelector"]["matchExpressions"][0]["values"] == [key]
        assert [e["operator"] for e in apart["labelSelector"]["matchExpressions"]] == [
            "Exists",
            "NotIn",
            "In",
        ]
        assert "affinity" not in follower["spec"]
        group = await cluster.get(POD_GROUPS, "js-w-0")
        assert group["spec"]["schedulingPolicy"] == {"gang": {"minCount": 2}}
        assert group["spec"]["schedulingConstraints"] == {"topology": [{"key": RACK}]}

    run_virtual(story, file=racks(2, 2))


def test_a_pod_that_is_made_anew_joins_its_rack():
    async def story(cluster):
        document = jobset(replicas=2)
        await cluster.apply(document)
        await cluster.clock.sleep(5)
        before = await racks_of(cluster)
        [_, follower, *_] = await cluster.pods()
        await cluster.client.delete(PODS, follower["metadata"]["name"], "default")
        await cluster.clock.sleep(60)
        assert await racks_of(cluster) == before
        assert len(await cluster.pods()) == 4

    run_virtual(story, file=racks(3, 3))


def test_a_restart_of_the_set_places_it_again():
    async def story(cluster):
        await cluster.apply(jobset(failurePolicy={"maxRestarts": 1}))
        await cluster.clock.sleep(5)
        job = await cluster.get(JOBS, "js-w-0")
        now = "2026-01-01T00:00:10Z"
        failed = [
            {"type": kind, "status": "True", "reason": "BackoffLimitExceeded", "message": "",
             "lastProbeTime": now, "lastTransitionTime": now}
            for kind in ("FailureTarget", "Failed")
        ]  # fmt: skip
        status = {"conditions": failed, "startTime": job["status"]["startTime"]}
        await cluster.client.update(
            JOBS, {**job, "status": status}, "default", subresource="status"
        )
        await cluster.clock.sleep(120)
        assert (await cluster.get(JOB_SETS, "js"))["status"]["restarts"] == 1
        found = await racks_of(cluster)
        assert sorted(map(sorted, found.values())) == [["r0"], ["r1"]]

    run_virtual(story, file=racks(2, 2))


def test_of_another_priority_a_job_may_push_one_out():
    urgent = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "urgent"},
        "value": 1000,
    }

    async def story(cluster):
        await cluster.apply(urgent)
        await cluster.apply(jobset("low", replicas=1))
        await cluster.clock.sleep(5)
        await cluster.apply(jobset("high", replicas=1, pod={"priorityClassName": "urgent"}))
        await cluster.clock.sleep(60)
        found = await racks_of(cluster)
        assert found["high-w-0"] == {"r0"}
        assert found["low-w-0"] == {""}

    run_virtual(story, file=racks(2))


def test_nodes_labelled_by_hand_need_no_group():
    async def story(cluster):
        for number in range(2):
            label = {"alpha.jobset.sigs.k8s.io/namespaced-job": f"default_js-w-{1 - number}"}
            change = {"metadata": {"labels": label}}
            await cluster.client.patch(NODES, f"r{number}-0", change)
        await cluster.apply(jobset(pods=1, annotations={BY_LABEL: "true"}))
        await cluster.clock.sleep(5)
        assert await racks_of(cluster) == {"js-w-0": {"r1"}, "js-w-1": {"r0"}}
        assert (await cluster.client.list(POD_GROUPS, "default")).items == []
        for pod in await cluster.pods():
            assert "jobset.sigs.k8s.io/priority" not in pod["metadata"]["labels"]

    run_virtual(story, file=racks(1, 1))


def test_pods_without_exclusive_placement_only_get_the_priority_label():
    async def story(cluster):
        document = jobset(replicas=1)
        del document["metadata"]["annotations"]
        await cluster.apply(document)
        await cluster.clock.sleep(5)
        for pod in await cluster.pods():
            assert pod["metadata"]["labels"]["jobset.sigs.k8s.io/priority"] == "0"
            assert "affinity" not in pod["spec"]
            assert "schedulingGroup" not in pod["spec"]
        assert (await cluster.client.list(POD_GROUPS, "default")).items == []

    run_virtual(story, file=racks(2))


@pytest.mark.shared
def test_the_published_example_gets_a_node_pool_for_each_job(shared):
    file = shared / "manifests/jobset/site/static/examples/simple/exclusive-placement.yaml"
    if not file.is_file():
        pytest.skip("the example is absent from the upstream data folder")
    [document] = yaml.safe_load_all(file.read_text())

    async def story(cluster):
        await cluster.apply(document)
        await cluster.clock.sleep(0.5)
        found = await racks_of(cluster, POOL)
        assert len(found) == 3
        assert sorted(map(sorted, found.values())) == [["r0"], ["r1"], ["r2"]]

    run_virtual(story, file=racks(2, 1, 2, key=POOL))
