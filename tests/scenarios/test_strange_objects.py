"""What a user may write and nobody expects must stop no controller, and must not make them spin."""

import logging
from contextlib import contextmanager

import pytest

from kubarium.api.kinds import JOBS, NODES, PODS
from kubarium.base.errors import ApiError
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.testing import run_virtual

CONTAINERS = [{"name": "c", "image": "busybox"}]
QUEUE = {"kueue.x-k8s.io/queue-name": "lq"}
# In ten minutes. A controller that spins makes a thousand times as many.
MOST_WRITES = 3000


def thing(api_version, kind, name, labels=None, annotations=None, **body):
    metadata = {"name": name, "labels": labels or {}, "annotations": annotations or {}}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata} | body


def pod(name, labels=None, annotations=None, **spec):
    spec = {"containers": CONTAINERS, "restartPolicy": "Never"} | spec
    return thing("v1", "Pod", name, labels, annotations, spec=spec)


def replicated(kind, name, **spec):
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": CONTAINERS} | spec}
    selector = {"matchLabels": labels}
    body = {"replicas": 5, "selector": selector, "template": template}
    return thing("apps/v1", kind, name, spec=body)


def job(name, labels=None, **spec):
    template = {"spec": {"containers": CONTAINERS, "restartPolicy": "Never"}}
    return thing("batch/v1", "Job", name, labels, spec={"template": template} | spec)


def claim(name, device_class="gpu.example.com", expression="", **request):
    exactly = {"deviceClassName": device_class} | request
    if expression:
        exactly["selectors"] = [{"cel": {"expression": expression}}]
    devices = {"requests": [{"name": "r", "exactly": exactly}]}
    return thing("resource.k8s.io/v1", "ResourceClaim", name, spec={"devices": devices})


def kueue(kind, name, **spec):
    return thing("kueue.x-k8s.io/v1beta2", kind, name, spec=spec)


def cluster_queue(name, flavor, quota="2", **spec):
    resources = [{"name": "cpu", "nominalQuota": quota}]
    groups = [{"coveredResources": ["cpu"], "flavors": [{"name": flavor, "resources": resources}]}]
    return kueue("ClusterQueue", name, resourceGroups=groups, **spec)


OWNED_BY_NOBODY = [
    {"apiVersion": "nope/v1", "kind": "Nope", "name": "x", "uid": "u", "controller": True}
]

STRANGE = {
    "a deployment for a node that is not there": [
        replicated("Deployment", "nowhere", nodeName="nope")
    ],
    "a budget without a spec": [thing("policy/v1", "PodDisruptionBudget", "empty")],
    "huge and tiny requests": [
        pod(f"r{number}", containers=[CONTAINERS[0] | {"resources": {"requests": {"cpu": value}}}])
        for number, value in enumerate(("9" * 400, "1n", "0", "123456789123456789123456789", "1Ei"))
    ],
    "durations that are no durations": [
        pod("long", annotations={"kubarium.dev/run-duration": "a while"}),
        pod("code", annotations={"kubarium.dev/exit-code": "-1"}),
    ],
    "an owner of no known kind": [
        {**pod("orphan"), "metadata": {"name": "orphan", "ownerReferences": OWNED_BY_NOBODY}}
    ],
    "selectors that fail": [
        claim("divided", expression="1/0 == 1"),
        pod("divided", resourceClaims=[{"name": "g", "resourceClaimName": "divided"}]),
        claim("typed", expression='device.attributes["gpu.example.com"].model'),
        pod("typed", resourceClaims=[{"name": "g", "resourceClaimName": "typed"}]),
    ],
    "more devices than exist": [
        claim("many", count=1000),
        pod("many", resourceClaims=[{"name": "g", "resourceClaimName": "many"}]),
    ],
    "cohorts in a circle": [
        kueue("ResourceFlavor", "f"),
        kueue("Cohort", "one", parentName="two"),
        kueue("Cohort", "two", parentName="one"),
        cluster_queue("cq", "f", cohortName="one"),
        kueue("LocalQueue", "lq", clusterQueue="cq"),
        job("circled", QUEUE),
    ],
    "a queue of a flavor that is not there": [
        cluster_queue("cq", "nope"),
        kueue("LocalQueue", "lq", clusterQueue="cq"),
        job("flavorless", QUEUE),
    ],
    "a huge quota": [
        kueue("ResourceFlavor", "f"),
        cluster_queue("cq", "f", "9" * 30),
        kueue("LocalQueue", "lq", clusterQueue="cq"),
        job("rich", QUEUE),
    ],
    "jobs of nothing": [job("none", parallelism=0), job("zero", completions=0)],
    "a job that is gone when it ends": [job("brief", ttlSecondsAfterFinished=0)],
    "a gang that is larger than its job": [
        thing(
            "scheduling.k8s.io/v1beta1",
            "PodGroup",
            "g",
            spec={"schedulingPolicy": {"gang": {"minCount": 9}}},
        ),
        pod("lonely", schedulingGroup={"podGroupName": "g"}),
    ],
    "overlapping replica sets": [
        {**replicated("ReplicaSet", "same"), "metadata": {"name": name}} for name in ("a", "b")
    ],
}

STATUSES = {
    "no type": {"conditions": [{"status": "True", "message": "?"}]},
    "an unknown phase": {"phase": "Exploded"},
    "statuses of strangers": {"containerStatuses": [{"name": "other", "restartCount": 7}]},
}


@contextmanager
def refused_at_most():
    """A refusal is as good as a success; a fault of the server is not."""
    try:
        yield
    except ApiError as error:
        if error.code >= 500:
            raise


def file() -> ClusterFile:
    devices = [{"profile": "gpu.example.com", "count": 2}]
    return ClusterFile([NodePool("node", 2, "simulated", devices=devices)])


async def others_go_on(cluster, written_before: int) -> None:
    await cluster.clock.sleep(600)
    await cluster.apply(job("ordinary"))
    await cluster.until_true(JOBS, "ordinary", "Complete", timeout_s=120)
    assert cluster.embedded.store.revision - written_before < MOST_WRITES


def no_traceback(caplog) -> None:
    assert not [r.getMessage() for r in caplog.records if r.exc_info], caplog.text


@pytest.mark.parametrize("case", STRANGE)
def test_strange_objects_stop_nobody(case, caplog):
    async def story(cluster):
        before = cluster.embedded.store.revision
        for document in STRANGE[case]:
            with refused_at_most():
                await cluster.apply(document)
        await others_go_on(cluster, before)

    with caplog.at_level(logging.WARNING):
        run_virtual(story, file=file())
    no_traceback(caplog)


@pytest.mark.parametrize("case", STATUSES)
def test_strange_statuses_stop_nobody(case, caplog):
    async def story(cluster):
        before = cluster.embedded.store.revision
        await cluster.apply(pod("waits", nodeSelector={"a": "b"}))
        await cluster.apply(pod("runs"))
        await cluster.clock.sleep(0.5)
        for name in ("waits", "runs"):
            with refused_at_most():
                await cluster.client.patch(
                    PODS, name, {"status": STATUSES[case]}, "default", subresource="status"
                )
        await others_go_on(cluster, before)

    with caplog.at_level(logging.WARNING):
        run_virtual(story, file=file())
    no_traceback(caplog)


def test_a_deployment_for_a_node_that_evicts_it_does_not_spin(caplog):
    async def story(cluster):
        before = cluster.embedded.store.revision
        taint = {"key": "a", "effect": "NoExecute"}
        await cluster.client.patch(NODES, "node-0", {"spec": {"taints": [taint]}})
        await cluster.apply(replicated("Deployment", "unwelcome", nodeName="node-0"))
        await cluster.clock.sleep(20)
        assert cluster.embedded.store.revision - before < 100 * 20

    with caplog.at_level(logging.WARNING):
        run_virtual(story, file=file())
    no_traceback(caplog)


def test_strange_numbers_of_devices_change_nothing(caplog):
    async def story(cluster):
        before = cluster.embedded.store.revision
        for count in ("-1", "many", "1e9", "", "99999999999999999999"):
            annotations = {"kubarium.dev/devices.gpu.example.com": count}
            await cluster.client.patch(NODES, "node-0", {"metadata": {"annotations": annotations}})
            await cluster.clock.sleep(5)
        await others_go_on(cluster, before)

    with caplog.at_level(logging.WARNING):
        run_virtual(story, file=file())
    no_traceback(caplog)
