from kubarium.api.kinds import CONFIG_MAPS, JOBS, NAMESPACES, SERVICE_ACCOUNTS
from kubarium.control.core.accounts import NamespaceDefaults
from kubarium.control.core.ttl import TtlAfterFinished


def test_every_namespace_has_its_account_and_the_root_certificate(world_run):
    async def story(world):
        await world.start(NamespaceDefaults(world.context, "PEM"), namespaces=("default", "team"))
        await world.settle()
        for namespace in ("default", "team"):
            assert await world.names(SERVICE_ACCOUNTS, namespace) == ["default"]
            config_map = await world.get(CONFIG_MAPS, "kube-root-ca.crt", namespace)
            assert config_map["data"] == {"ca.crt": "PEM"}
        await world.client.delete(SERVICE_ACCOUNTS, "default", "team")
        await world.client.patch(
            CONFIG_MAPS, "kube-root-ca.crt", {"data": {"ca.crt": "forged"}}, "team"
        )
        await world.settle()
        assert await world.names(SERVICE_ACCOUNTS, "team") == ["default"]
        config_map = await world.get(CONFIG_MAPS, "kube-root-ca.crt", "team")
        assert config_map["data"] == {"ca.crt": "PEM"}

    world_run(story)


def test_a_namespace_that_is_going_gets_nothing_new(world_run):
    async def story(world):
        await world.start(NamespaceDefaults(world.context), namespaces=("default", "team"))
        await world.settle()
        await world.client.delete(NAMESPACES, "team")
        await world.client.delete(SERVICE_ACCOUNTS, "default", "team")
        await world.settle()
        assert await world.names(SERVICE_ACCOUNTS, "team") == []

    world_run(story)


def test_a_finished_job_is_deleted_when_its_time_is_over(world_run):
    async def story(world):
        await world.start(TtlAfterFinished(world.context))
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "j"},
            "spec": {
                "ttlSecondsAfterFinished": 30,
                "template": {
                    "spec": {
                        "restartPolicy": "Never",
                        "containers": [{"name": "main", "image": "busybox"}],
                    }
                },
            },
        }
        await world.create(JOBS, job)
        await world.settle(100)
        now = "2026-01-01T00:01:40Z"
        conditions = [
            {"type": "SuccessCriteriaMet", "status": "True", "lastTransitionTime": now},
            {"type": "Complete", "status": "True", "lastTransitionTime": now},
        ]
        status = {"startTime": now, "completionTime": now, "conditions": conditions}
        await world.client.patch(JOBS, "j", {"status": status}, "default", subresource="status")
        await world.settle(25)
        assert "deletionTimestamp" not in (await world.get(JOBS, "j"))["metadata"]
        await world.settle(10)
        # Nobody collects garbage here: the job waits for its dependents' deletion.
        going = await world.get(JOBS, "j")
        assert going["metadata"]["finalizers"] == ["foregroundDeletion"]

    world_run(story)
