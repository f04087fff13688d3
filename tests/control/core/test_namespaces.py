from kubarium.api.kinds import CONFIG_MAPS, EVENTS, LOCAL_QUEUES, NAMESPACES, PODS
from kubarium.control.core.namespaces import NamespaceController
from kubarium.control.core.served import ServedResources


def controller(world):
    return NamespaceController(world.context, ServedResources(world.context))


def pod(name):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "busybox"}]},
    }


def test_everything_in_a_deleted_namespace_goes(world_run):
    async def story(world):
        await world.install("kueue.x-k8s.io")
        await world.start(controller(world), namespaces=("default", "team"))
        await world.create(
            CONFIG_MAPS,
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}},
            "team",
        )
        queue = {
            "apiVersion": "kueue.x-k8s.io/v1beta2",
            "kind": "LocalQueue",
            "metadata": {"name": "q"},
            "spec": {"clusterQueue": "cq"},
        }
        await world.create(LOCAL_QUEUES, queue, "team")
        await world.create(PODS, pod("p"), "team")
        await world.create(PODS, pod("stays"))
        await world.settle()
        await world.client.delete(NAMESPACES, "team")
        await world.settle(10)
        assert "team" not in await world.names(NAMESPACES)
        assert await world.names(PODS) == ["stays"]
        assert (await world.find(CONFIG_MAPS, "team")) == []
        assert (await world.find(LOCAL_QUEUES, "team")) == []
        assert (await world.find(EVENTS, "team")) == []

    world_run(story)


def test_pods_go_first_and_conditions_say_what_remains(world_run, conditions):
    async def story(world):
        await world.start(controller(world), namespaces=("default", "team"))
        running = await world.create(PODS, pod("p"), "team")
        await world.set_phase(running, "Running")
        document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "needed"}}
        await world.create(CONFIG_MAPS, document, "team")
        await world.settle()
        await world.client.delete(NAMESPACES, "team")
        await world.settle(10)
        going = await world.get(NAMESPACES, "team")
        assert going["status"]["phase"] == "Terminating"
        assert conditions(going)["NamespaceContentRemaining"] == ("True", "SomeResourcesRemain")
        assert await world.names(CONFIG_MAPS, "team") == ["needed"]
        await world.finish_deletions("team")
        await world.settle(10)
        assert "team" not in await world.names(NAMESPACES)

    world_run(story)


def test_finalizers_hold_the_namespace_and_are_named(world_run):
    async def story(world):
        await world.start(controller(world), namespaces=("default", "team"))
        document = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "held", "finalizers": ["example.com/hold"]},
        }
        await world.create(CONFIG_MAPS, document, "team")
        await world.settle()
        await world.client.delete(NAMESPACES, "team")
        await world.settle(10)
        going = await world.get(NAMESPACES, "team")
        messages = {c["type"]: c["message"] for c in going["status"]["conditions"]}
        assert messages["NamespaceFinalizersRemaining"] == (
            "Some content in the namespace has finalizers remaining: "
            "example.com/hold in 1 resource instances"
        )
        patch = {"metadata": {"finalizers": None}}
        await world.client.patch(CONFIG_MAPS, "held", patch, "team")
        await world.settle(10)
        assert "team" not in await world.names(NAMESPACES)

    world_run(story)
