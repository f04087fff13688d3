"""delete and deletecollection: grace, finalizers, propagation, preconditions."""

import pytest

from kubarium.api.kinds import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    JOBS,
    NAMESPACES,
    PODS,
)
from kubarium.server.requests import Call, DeleteOptions, ListOptions

JOB = {
    "metadata": {"name": "j"},
    "spec": {
        "template": {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
        }
    },
}


def config_map(name="a", **metadata):
    return {"metadata": {"name": name, **metadata}}


async def exists(w, resource, name):
    page = await w.client.list(resource, field_selector=f"metadata.name={name}")
    return bool(page.items)


def test_a_plain_object_is_gone_at_once(world):
    async def story(w):
        made = await w.client.create(CONFIG_MAPS, config_map(), "default")
        last = await w.client.delete(CONFIG_MAPS, "a", "default")
        assert last["metadata"]["uid"] == made["metadata"]["uid"]
        assert last["metadata"]["resourceVersion"] == str(w.store.revision)
        error = await w.refused(w.client.delete(CONFIG_MAPS, "a", "default"))
        assert error.code == 404

    world(story)


def test_preconditions_hold_or_nothing_happens(world):
    async def story(w):
        made = await w.client.create(CONFIG_MAPS, config_map(), "default")
        uid = made["metadata"]["uid"]
        error = await w.refused(w.client.delete(CONFIG_MAPS, "a", "default", uid="other"))
        assert (error.code, error.reason) == (409, "Conflict")
        assert error.message == (
            'Operation cannot be fulfilled on ConfigMap "a": the UID in the precondition (other) '
            f"does not match the UID in record ({uid}). The object might have been deleted and "
            "then recreated"
        )
        error = await w.refused(w.client.delete(CONFIG_MAPS, "a", "default", resource_version="1"))
        assert "the ResourceVersion in the precondition (1) does not match" in error.message
        version = made["metadata"]["resourceVersion"]
        await w.client.delete(CONFIG_MAPS, "a", "default", uid=uid, resource_version=version)
        assert not await exists(w, CONFIG_MAPS, "a")

    world(story)


def test_finalizers_hold_an_object_until_the_last_is_removed(world):
    async def story(w):
        document = config_map(finalizers=["example.com/one", "example.com/two"])
        await w.client.create(CONFIG_MAPS, document, "default")
        held = await w.client.delete(CONFIG_MAPS, "a", "default")
        assert held["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:00Z"
        assert held["metadata"]["deletionGracePeriodSeconds"] == 0
        before = w.store.revision
        assert await w.client.delete(CONFIG_MAPS, "a", "default") == held
        assert w.store.revision == before

        async def set_finalizers(*names):
            patch = {"metadata": {"finalizers": list(names)}}
            return await w.client.patch(CONFIG_MAPS, "a", patch, "default")

        error = await w.refused(set_finalizers("example.com/one", "example.com/three"))
        assert error.code == 422
        assert (
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is "
            'being deleted, found new finalizers []string{"example.com/three"}' in error.message
        )
        await set_finalizers("example.com/two")
        assert await exists(w, CONFIG_MAPS, "a")
        watch = await w.client.watch(CONFIG_MAPS, resource_version=str(w.store.revision))
        await set_finalizers()
        assert [event.type for event in await watch.next_batch()] == ["DELETED"]
        assert not await exists(w, CONFIG_MAPS, "a")

    world(story)


@pytest.mark.parametrize(
    ("policy", "finalizer"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")]
)
def test_policies_that_need_the_garbage_collector_leave_it_a_finalizer(world, policy, finalizer):
    async def story(w):
        await w.client.create(CONFIG_MAPS, config_map(), "default")
        held = await w.client.delete(CONFIG_MAPS, "a", "default", propagation_policy=policy)
        assert held["metadata"]["finalizers"] == [finalizer]
        assert "deletionTimestamp" in held["metadata"]
        await w.client.delete(CONFIG_MAPS, "a", "default", propagation_policy="Background")
        assert not await exists(w, CONFIG_MAPS, "a")

    world(story)


def test_an_unknown_policy_is_refused(world):
    async def story(w):
        error = await w.refused(
            w.client.delete(CONFIG_MAPS, "a", "default", propagation_policy="Sideways")
        )
        assert error.code == 422
        assert 'propagationPolicy: Unsupported value: "Sideways"' in error.message

    world(story)


def test_jobs_orphan_their_pods_unless_told_otherwise(world):
    async def story(w):
        await w.client.create(JOBS, JOB, "default")
        held = await w.client.delete(JOBS, "j", "default")
        assert held["metadata"]["finalizers"] == ["orphan"]
        await w.client.delete(JOBS, "j", "default", propagation_policy="Background")
        assert not await exists(w, JOBS, "j")

    world(story)


def test_being_deleted_is_a_new_generation(world):
    async def story(w):
        pod = {"metadata": {"labels": {"a": "b"}}, "spec": JOB["spec"]["template"]["spec"]}
        pod["spec"] = pod["spec"] | {"restartPolicy": "Always"}
        deployment = {
            "metadata": {"name": "d", "finalizers": ["example.com/x"]},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": pod},
        }
        await w.client.create(DEPLOYMENTS, deployment, "default")
        held = await w.client.delete(DEPLOYMENTS, "d", "default")
        assert held["metadata"]["generation"] == 2

    world(story)


def test_unscheduled_pods_go_at_once(world):
    async def story(w):
        await w.pod("p")
        watch = await w.client.watch(PODS, resource_version=str(w.store.revision))
        last = await w.client.delete(PODS, "p", "default")
        assert last["metadata"]["deletionGracePeriodSeconds"] == 0
        assert [event.type for event in await watch.next_batch()] == ["DELETED"]

    world(story)


def test_bound_pods_get_their_grace_and_the_node_agent_ends_it(world):
    async def story(w):
        made = await w.pod("p", nodeName="n1")
        await w.clock.sleep(5)
        held = await w.client.delete(PODS, "p", "default")
        metadata = held["metadata"]
        assert metadata["deletionGracePeriodSeconds"] == 30
        assert metadata["deletionTimestamp"] == "2026-01-01T00:00:35Z"
        longer = await w.client.delete(PODS, "p", "default", grace_period_s=60)
        assert longer["metadata"]["deletionGracePeriodSeconds"] == 30
        shorter = await w.client.delete(PODS, "p", "default", grace_period_s=10)
        assert shorter["metadata"]["deletionGracePeriodSeconds"] == 10
        assert shorter["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:15Z"
        uid = made["metadata"]["uid"]
        await w.client.delete(PODS, "p", "default", grace_period_s=0, uid=uid)
        assert not await exists(w, PODS, "p")

    world(story)


def test_pods_choose_their_grace(world):
    async def story(w):
        await w.pod("p", nodeName="n1", terminationGracePeriodSeconds=7)
        held = await w.client.delete(PODS, "p", "default")
        assert held["metadata"]["deletionGracePeriodSeconds"] == 7

    world(story)


def test_a_grace_that_never_ends_can_be_cut_short(world):
    """int64 is what the field takes; the moment at which it ends has no name."""

    async def story(w):
        await w.pod("p", nodeName="n1", terminationGracePeriodSeconds=2**63 - 1)
        held = await w.client.delete(PODS, "p", "default")
        assert held["metadata"]["deletionTimestamp"].startswith("2125-12")
        again = await w.client.delete(PODS, "p", "default", grace_period_s=2**63 - 1)
        assert again["metadata"]["deletionTimestamp"] == held["metadata"]["deletionTimestamp"]
        shorter = await w.client.delete(PODS, "p", "default", grace_period_s=10)
        assert shorter["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:10Z"
        await w.client.delete(PODS, "p", "default", grace_period_s=0)
        assert not await exists(w, PODS, "p")

    world(story)


def test_finished_pods_need_no_grace(world):
    async def story(w):
        await w.pod("p", nodeName="n1")
        await w.client.patch(
            PODS, "p", {"status": {"phase": "Succeeded"}}, "default", subresource="status"
        )
        await w.client.delete(PODS, "p", "default")
        assert not await exists(w, PODS, "p")

    world(story)


def test_a_pod_with_finalizers_survives_the_end_of_its_grace(world):
    async def story(w):
        await w.pod(
            "p", nodeName="n1", metadata={"finalizers": ["batch.kubernetes.io/job-tracking"]}
        )
        await w.client.delete(PODS, "p", "default")
        held = await w.client.delete(PODS, "p", "default", grace_period_s=0)
        assert held["metadata"]["deletionGracePeriodSeconds"] == 0
        assert await exists(w, PODS, "p")
        await w.client.patch(PODS, "p", {"metadata": {"finalizers": None}}, "default")
        assert not await exists(w, PODS, "p")

    world(story)


def test_removing_finalizers_does_not_cut_a_grace_period_short(world):
    async def story(w):
        await w.pod("p", nodeName="n1", metadata={"finalizers": ["example.com/x"]})
        await w.client.delete(PODS, "p", "default")
        await w.client.patch(PODS, "p", {"metadata": {"finalizers": None}}, "default")
        assert await exists(w, PODS, "p")

    world(story)


def test_namespaces_wait_for_their_content_and_some_are_immortal(world):
    async def story(w):
        await w.client.create(NAMESPACES, {"metadata": {"name": "team"}})
        held = await w.client.delete(NAMESPACES, "team")
        assert held["status"]["phase"] == "Terminating"
        assert "deletionTimestamp" in held["metadata"]
        await w.client.update(
            NAMESPACES, held | {"spec": {"finalizers": []}}, subresource="finalize"
        )
        assert not await exists(w, NAMESPACES, "team")
        error = await w.refused(w.client.delete(NAMESPACES, "default"))
        assert error.code == 403
        assert error.message == (
            'namespaces "default" is forbidden: this namespace may not be deleted'
        )

    world(story)


def test_a_main_update_cannot_finalize_a_namespace(world):
    async def story(w):
        made = await w.client.create(NAMESPACES, {"metadata": {"name": "team"}})
        updated = await w.client.update(NAMESPACES, made | {"spec": {}})
        assert updated["spec"] == {"finalizers": ["kubernetes"]}

    world(story)


def test_collections_are_deleted_by_selection(world):
    async def story(w):
        for name in "abc":
            label = {"keep": "yes"} if name == "b" else {}
            await w.client.create(CONFIG_MAPS, config_map(name, labels=label), "default")
        await w.client.delete_collection(CONFIG_MAPS, "default", label_selector="keep!=yes")
        page = await w.client.list(CONFIG_MAPS)
        assert [item["metadata"]["name"] for item in page.items] == ["b"]

    world(story)


def test_large_collections_let_others_run(world):
    async def story(w):
        for number in range(250):
            await w.client.create(CONFIG_MAPS, config_map(f"c{number}"), "default")
        turns = 0

        async def count_turns():
            nonlocal turns
            while await exists(w, CONFIG_MAPS, "c99"):
                turns += 1
                await w.clock.sleep(0)

        kind = w.server.registry.kind_of("", "v1", "configmaps")
        call = Call(w.client._user, "tester")
        import asyncio

        counter = asyncio.ensure_future(count_turns())
        deleted = await w.server.delete_collection(
            kind, "default", ListOptions(), DeleteOptions(), call
        )
        await counter
        assert len(deleted) == 250
        assert turns > 1

    world(story)
