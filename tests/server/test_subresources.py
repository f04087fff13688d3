"""binding, eviction, scale, resize, ephemeral containers."""

import pytest

from kubarium.api.kinds import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    NODES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
)
from kubarium.client.protocol import JSON_PATCH

EVICTION = {"apiVersion": "policy/v1", "kind": "Eviction"}


async def evict(w, name, **options):
    body = EVICTION | {"metadata": {"name": name}} | options
    return await w.client.create(PODS, body, "default", name=name, subresource="eviction")


async def workload(w, resource=DEPLOYMENTS, replicas=3):
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    selector = {
        "matchLabels": {"app": "web"},
        "matchExpressions": [{"key": "app", "operator": "Exists"}],
    }
    spec = {"replicas": replicas, "selector": selector, "template": template}
    document = {"metadata": {"name": "web"}, "spec": spec}
    return await w.client.create(resource, document, "default")


def test_binding_gives_a_pod_its_node_and_its_topology(world):
    async def story(w):
        await w.node("n1", labels={"topology.kubernetes.io/zone": "z1", "other": "x"})
        made = await w.pod("p")
        body = {
            "metadata": {"name": "p", "annotations": {"a": "b"}},
            "target": {"kind": "Node", "name": "n1"},
        }
        answer = await w.client.create(PODS, body, "default", name="p", subresource="binding")
        assert answer["status"] == "Success"
        pod = await w.client.get(PODS, "p", "default")
        assert pod["spec"]["nodeName"] == "n1"
        assert pod["metadata"]["annotations"] == {"a": "b"}
        assert pod["metadata"]["labels"] == {"topology.kubernetes.io/zone": "z1"}
        (condition,) = pod["status"]["conditions"]
        assert (condition["type"], condition["status"]) == ("PodScheduled", "True")
        assert "nodeName" not in made["spec"]

    world(story)


def test_pods_are_bound_once(world):
    async def story(w):
        await w.pod("p")
        await w.bind("p", "n1")
        error = await w.refused(w.bind("p", "n2"))
        assert (error.code, error.reason) == (409, "Conflict")
        assert 'pod p is already assigned to node "n1"' in error.message
        assert (await w.client.get(PODS, "p", "default"))["spec"]["nodeName"] == "n1"

    world(story)


def test_a_pod_that_is_bound_is_nominated_no_more(world):
    async def story(w):
        await w.pod("p")
        status = {"status": {"nominatedNodeName": "n2"}}
        await w.client.patch(PODS, "p", status, "default", subresource="status")
        await w.bind("p", "n1")
        assert "nominatedNodeName" not in (await w.client.get(PODS, "p", "default"))["status"]

    world(story)


def test_a_pods_generation_counts_what_it_asks_for_and_not_where_it_is_put(world):
    """Upstream's conformance test: 1 once the pod runs, 2 when it is told to end."""

    async def story(w):
        await w.pod("p")
        await w.bind("p", "n1")
        bound = await w.client.get(PODS, "p", "default")
        (condition,) = bound["status"]["conditions"]
        assert bound["metadata"]["generation"] == condition["observedGeneration"] == 1
        await w.client.delete(PODS, "p", "default")
        assert (await w.client.get(PODS, "p", "default"))["metadata"]["generation"] == 2

    world(story)


def test_gated_and_dying_pods_are_not_bound(world):
    async def story(w):
        made = await w.pod("gated", schedulingGates=[{"name": "example.com/wait"}])
        (condition,) = made["status"]["conditions"]
        assert condition["reason"] == "SchedulingGated"
        error = await w.refused(w.bind("gated"))
        assert error.code == 409
        assert "non-empty .spec.schedulingGates" in error.message
        await w.client.patch(PODS, "gated", {"spec": {"schedulingGates": []}}, "default")
        await w.bind("gated")
        await w.pod("dying", metadata={"finalizers": ["example.com/x"]})
        await w.client.delete(PODS, "dying", "default")
        error = await w.refused(w.bind("dying"))
        assert "is being deleted, cannot be assigned to a host" in error.message

    world(story)


@pytest.mark.parametrize(
    ("target", "code"),
    [(None, 400), ("n1", 400), ({"kind": "Node"}, 422), ({"kind": "Pod", "name": "x"}, 422)],
)
def test_bindings_without_a_node_are_refused(world, target, code):
    async def story(w):
        await w.pod("p")
        body = {"target": target}
        error = await w.refused(
            w.client.create(PODS, body, "default", name="p", subresource="binding")
        )
        assert error.code == code

    world(story)


async def guarded(w, name="p", allowed=1, ready=True, **spec):
    """A running pod under a budget that its controller has observed."""
    await w.pod(name, metadata={"labels": {"app": "web"}}, nodeName="n1")
    status = {"phase": "Running", "conditions": []}
    if ready:
        status["conditions"].append({"type": "Ready", "status": "True"})
    await w.client.patch(PODS, name, {"status": status}, "default", subresource="status")
    budget = {
        "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}} | spec,
    }
    await w.client.create(POD_DISRUPTION_BUDGETS, budget, "default")
    status = {
        "observedGeneration": 1,
        "disruptionsAllowed": allowed,
        "currentHealthy": 1,
        "desiredHealthy": 1,
        "expectedPods": 1,
    }
    await w.client.patch(
        POD_DISRUPTION_BUDGETS, "b", {"status": status}, "default", subresource="status"
    )


def test_an_eviction_spends_the_budget(world):
    async def story(w):
        await guarded(w, allowed=1)
        await evict(w, "p")
        pod = await w.client.get(PODS, "p", "default")
        assert "deletionTimestamp" in pod["metadata"]
        budget = await w.client.get(POD_DISRUPTION_BUDGETS, "b", "default")
        assert budget["status"]["disruptionsAllowed"] == 0
        assert list(budget["status"]["disruptedPods"]) == ["p"]
        (condition,) = budget["status"]["conditions"]
        assert (condition["status"], condition["reason"]) == ("False", "InsufficientPods")

    world(story)


def test_a_pod_of_several_budgets_is_not_evicted(world):
    async def story(w):
        await guarded(w, allowed=1)
        first = await w.client.get(POD_DISRUPTION_BUDGETS, "b", "default")
        await w.client.create(
            POD_DISRUPTION_BUDGETS, first | {"metadata": {"name": "c"}}, "default"
        )
        error = await w.refused(evict(w, "p"))
        assert error.status() == {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": "This pod has more than one PodDisruptionBudget, which the eviction "
            "subresource does not support.",
            "code": 500,
        }

    world(story)


def test_evictions_that_nobody_has_seen_yet_are_limited(world):
    async def story(w):
        await guarded(w, allowed=1)
        disrupted = {f"pod-{n}": "2026-01-01T00:00:00Z" for n in range(2001)}
        change = {"status": {"disruptedPods": disrupted}}
        await w.client.patch(POD_DISRUPTION_BUDGETS, "b", change, "default", subresource="status")
        error = await w.refused(evict(w, "p"))
        assert (error.code, error.message) == (
            403,
            'poddisruptionbudget.policy "b" is forbidden: DisruptedPods map too big - too many '
            "evictions not confirmed by PDB controller",
        )

    world(story)


def test_an_eviction_waits_for_the_budget(world):
    async def story(w):
        await guarded(w, allowed=0)
        error = await w.refused(evict(w, "p"))
        assert (error.code, error.reason) == (429, "TooManyRequests")
        assert error.message == (
            "Cannot evict pod as it would violate the pod's disruption budget."
        )
        assert "retryAfterSeconds" not in error.details
        (cause,) = error.details["causes"]
        assert cause == {
            "reason": "DisruptionBudget",
            "message": "The disruption budget b needs 1 healthy pods and has 1 currently",
        }
        assert "deletionTimestamp" not in (await w.client.get(PODS, "p", "default"))["metadata"]

    world(story)


def test_a_budget_that_was_not_observed_yet_holds(world):
    async def story(w):
        await guarded(w, allowed=1)
        await w.client.patch(POD_DISRUPTION_BUDGETS, "b", {"spec": {"minAvailable": 2}}, "default")
        error = await w.refused(evict(w, "p"))
        assert error.code == 429
        assert "still being processed by the server" in error.details["causes"][0]["message"]
        assert error.details["retryAfterSeconds"] == 10

    world(story)


def test_unready_pods_leave_a_budget_that_lets_them(world):
    async def story(w):
        await guarded(w, allowed=0, ready=False, unhealthyPodEvictionPolicy="AlwaysAllow")
        await evict(w, "p")
        budget = await w.client.get(POD_DISRUPTION_BUDGETS, "b", "default")
        assert budget["status"]["disruptionsAllowed"] == 0

    world(story)


@pytest.mark.parametrize(
    ("options", "goes"),
    [
        ({}, True),
        ({"dryRun": ["All"]}, False),
        ({"preconditions": {"uid": "another"}}, False),
        ({"preconditions": {"resourceVersion": "1"}}, False),
    ],
)
def test_an_evicted_pod_says_so_before_it_goes(world, options, goes):
    async def story(w):
        await guarded(w, allowed=1)
        body = EVICTION | {"metadata": {"name": "p"}, "deleteOptions": options}
        call = w.client.create(PODS, body, "default", name="p", subresource="eviction")
        if goes or "dryRun" in options:
            await call
        else:
            assert (await w.refused(call)).code == 409
        pod = await w.client.get(PODS, "p", "default")
        assert ("deletionTimestamp" in pod["metadata"]) is goes
        found = [c for c in pod["status"]["conditions"] if c["type"] == "DisruptionTarget"]
        assert [(c["status"], c["reason"], c["message"]) for c in found] == (
            [("True", "EvictionByEvictionAPI", "Eviction API: evicting")] if goes else []
        )

    world(story)


def test_a_precondition_on_the_version_holds_for_the_pod_as_its_evictor_saw_it(world):
    async def story(w):
        await guarded(w, allowed=1)
        seen = (await w.client.get(PODS, "p", "default"))["metadata"]["resourceVersion"]
        options = {"preconditions": {"resourceVersion": seen}}
        body = EVICTION | {"metadata": {"name": "p"}, "deleteOptions": options}
        await w.client.create(PODS, body, "default", name="p", subresource="eviction")
        assert "deletionTimestamp" in (await w.client.get(PODS, "p", "default"))["metadata"]

    world(story)


def test_pending_pods_need_no_budget(world):
    async def story(w):
        await w.pod("p", metadata={"labels": {"app": "web"}})
        await evict(w, "p")
        error = await w.refused(w.client.get(PODS, "p", "default"))
        assert error.code == 404

    world(story)


@pytest.mark.parametrize("metadata", [{"name": "other"}, {}])
def test_an_eviction_names_the_pod_of_its_url(world, metadata):
    async def story(w):
        await w.pod("p")
        body = EVICTION | {"metadata": metadata}
        error = await w.refused(
            w.client.create(PODS, body, "default", name="p", subresource="eviction")
        )
        assert error.code == 400

    world(story)


@pytest.mark.parametrize("resource", [DEPLOYMENTS, REPLICA_SETS])
def test_scale_shows_and_sets_the_replicas(world, resource):
    async def story(w):
        made = await workload(w, resource)
        kind = w.server.registry.kind_of(resource.group, resource.version, resource.plural)
        scale = w.server.scale.get(kind, "default", "web")
        assert scale["spec"] == {"replicas": 3}
        assert scale["status"] == {"replicas": 0, "selector": "app=web,app"}
        assert scale["metadata"]["uid"] == made["metadata"]["uid"]
        scale["spec"]["replicas"] = 5
        answer = await w.client.update(resource, scale, subresource="scale")
        assert answer["spec"] == {"replicas": 5}
        error = await w.refused(w.client.update(resource, scale, subresource="scale"))
        assert error.code == 409
        stored = await w.client.get(resource, "web", "default")
        assert stored["spec"]["replicas"] == 5
        assert stored["metadata"]["generation"] == 2
        entry = next(
            e for e in stored["metadata"]["managedFields"] if e.get("subresource") == "scale"
        )
        assert entry["fieldsV1"]["f:spec"]["f:replicas"] == {}

    world(story)


def test_scale_is_patched_as_if_it_were_stored(world):
    async def story(w):
        await workload(w)
        await w.client.patch(
            DEPLOYMENTS, "web", {"spec": {"replicas": 0}}, "default", subresource="scale"
        )
        stored = await w.client.get(DEPLOYMENTS, "web", "default")
        assert stored["spec"]["replicas"] == 0
        patch = [{"op": "add", "path": "/spec/replicas", "value": 4}]
        answer = await w.client.patch(
            DEPLOYMENTS, "web", patch, "default", subresource="scale", patch_type=JSON_PATCH
        )
        assert answer["spec"]["replicas"] == 4

    world(story)


@pytest.mark.parametrize("replicas", [-1, "3", True, 1.5])
def test_impossible_replicas_are_refused(world, replicas):
    async def story(w):
        await workload(w)
        error = await w.refused(
            w.client.patch(
                DEPLOYMENTS,
                "web",
                {"spec": {"replicas": replicas}},
                "default",
                subresource="scale",
            )
        )
        assert error.code == 422
        assert "spec.replicas: Invalid value" in error.message

    world(story)


def test_kinds_without_the_subresource_refuse_it(world):
    async def story(w):
        await w.client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default")
        for subresource in ("scale", "status", "resize", "nonsense"):
            error = await w.refused(
                w.client.patch(CONFIG_MAPS, "a", {}, "default", subresource=subresource)
            )
            assert error.code == 405, subresource

    world(story)


def test_resize_changes_resources_and_nothing_else(world):
    async def story(w):
        resources = {"requests": {"cpu": "1"}}
        made = await w.pod("p", containers=[{"name": "c", "image": "i", "resources": resources}])
        container = {"name": "c", "image": "other", "resources": {"requests": {"cpu": "2"}}}
        sent = made | {"spec": made["spec"] | {"containers": [container]}}
        resized = await w.client.update(PODS, sent, subresource="resize")
        (stored,) = resized["spec"]["containers"]
        assert stored["resources"]["requests"] == {"cpu": "2"}
        assert stored["image"] == "i"
        assert resized["metadata"]["generation"] == 2
        bare = [{"name": "c", "image": "i", "resources": {}}]
        sent = resized | {"spec": resized["spec"] | {"containers": bare}}
        error = await w.refused(w.client.update(PODS, sent, subresource="resize"))
        assert error.code == 422
        assert "Pod QOS Class may not change as a result of resizing" in error.message

    world(story)


def test_a_resize_keeps_containers_within_their_pod(world):
    async def story(w):
        of_pod = {"requests": {"memory": "64Mi"}, "limits": {"memory": "256Mi"}}
        made = await w.pod("p", resources=of_pod)

        async def refused(**changed):
            sent = made | {"spec": made["spec"] | changed}
            error = await w.refused(w.client.update(PODS, sent, subresource="resize"))
            assert error.code == 422
            return error.message

        below = of_pod | {"limits": {"memory": "32Mi"}}
        assert "must be less than or equal to memory limit of 32Mi" in await refused(
            resources=below
        )
        [container] = made["spec"]["containers"]
        beyond = container | {"resources": {"limits": {"memory": "1Gi"}}}
        assert "must be less than or equal to pod limits of 256Mi" in await refused(
            containers=[beyond]
        )

    world(story)


def test_ephemeral_containers_are_only_added(world):
    async def story(w):
        made = await w.pod("p")
        debug = {"name": "debug", "image": "busybox"}
        sent = made | {"spec": made["spec"] | {"ephemeralContainers": [debug]}}
        added = await w.client.update(PODS, sent, subresource="ephemeralcontainers")
        assert added["spec"]["ephemeralContainers"][0]["name"] == "debug"
        sent = added | {"spec": added["spec"] | {"ephemeralContainers": []}}
        error = await w.refused(w.client.update(PODS, sent, subresource="ephemeralcontainers"))
        assert error.code == 422
        assert "may not be removed" in error.message

    world(story)


def test_binding_to_a_node_that_is_unknown_is_the_schedulers_business(world):
    async def story(w):
        await w.pod("p")
        await w.bind("p", "not-yet-registered")
        page = await w.client.list(NODES)
        assert page.items == []

    world(story)
