from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.api.kinds import ENDPOINT_SLICES, ENDPOINTS, NODES, PODS, SERVICES
from kubarium.control.core import endpoints as model
from kubarium.control.core.services import EndpointsController


def service(name="web", selector=None, **spec):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "selector": selector or {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            **spec,
        },
    }


def pod(name, ports=(), labels=None, **spec):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {"app": "web"}},
        "spec": {
            "containers": [{"name": "main", "image": "busybox", "ports": list(ports)}],
            **spec,
        },
    }


async def endpoints(world, name="web"):
    slices = await world.find(ENDPOINT_SLICES, label_selector=f"kubernetes.io/service-name={name}")
    return [endpoint for item in slices for endpoint in item.get("endpoints") or ()]


async def running(world, document, ip):
    created = await world.create(PODS, document)
    await world.set_phase(created, "Running")
    patch = {"status": {"podIP": ip, "podIPs": [{"ip": ip}]}}
    await world.client.patch(
        PODS, document["metadata"]["name"], patch, "default", subresource="status"
    )
    return created


def test_ready_pods_become_endpoints(world_run):
    async def story(world):
        await world.start(EndpointsController(world.context))
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "node-0", "labels": {model.ZONE: "z1"}},
        }
        await world.create(NODES, node)
        await world.create(SERVICES, service())
        await world.settle()
        [empty] = await world.find(ENDPOINT_SLICES)
        assert not empty.get("endpoints")
        first = await running(world, pod("a"), "10.0.0.1")
        await running(world, pod("other", labels={"app": "db"}), "10.0.0.2")
        await world.settle()
        [endpoint] = await endpoints(world)
        assert endpoint["addresses"] == ["10.0.0.1"]
        assert endpoint["conditions"] == {"ready": True, "serving": True, "terminating": False}
        assert endpoint["targetRef"]["uid"] == first["metadata"]["uid"]
        assert (endpoint["nodeName"], endpoint["zone"]) == ("node-0", "z1")
        [item] = await world.find(ENDPOINT_SLICES)
        assert item["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
        assert item["metadata"]["name"].startswith("web-")
        legacy = await world.get(ENDPOINTS, "web")
        [subset] = legacy["subsets"]
        assert [address["ip"] for address in subset["addresses"]] == ["10.0.0.1"]
        await world.set_phase(first, "Failed", exit_code=1)
        await world.settle()
        assert await endpoints(world) == []
        assert not (await world.get(ENDPOINTS, "web")).get("subsets")

    world_run(story)


def test_headless_services_name_pods_and_may_publish_them_early(world_run):
    async def story(world):
        await world.start(EndpointsController(world.context))
        headless = service(clusterIP="None", publishNotReadyAddresses=True)
        del headless["spec"]["ports"]
        await world.create(SERVICES, headless)
        created = await world.create(PODS, pod("a", hostname="rank-0", subdomain="web"))
        patch = {"status": {"phase": "Pending", "podIP": "10.0.0.9"}}
        await world.client.patch(PODS, "a", patch, "default", subresource="status")
        await world.settle()
        [endpoint] = await endpoints(world)
        assert endpoint["hostname"] == "rank-0"
        assert endpoint["conditions"] == {"ready": True, "serving": False, "terminating": False}
        taken = {"metadata": {"annotations": {"kubarium.dev/hostname": "rank-7"}}}
        await world.client.patch(PODS, "a", taken, "default")
        await world.settle()
        [endpoint] = await endpoints(world)
        assert endpoint["hostname"] == "rank-7", "a spare answers to its rank's name"
        [item] = await world.find(ENDPOINT_SLICES)
        assert item["metadata"]["labels"][model.HEADLESS] == ""
        assert created

    world_run(story)


def test_a_terminating_pod_is_no_longer_ready_but_may_serve(world_run):
    async def story(world):
        await world.start(EndpointsController(world.context))
        await world.create(SERVICES, service())
        await running(world, pod("a"), "10.0.0.1")
        await world.client.delete(PODS, "a", "default")
        await world.settle()
        [endpoint] = await endpoints(world)
        assert endpoint["conditions"] == {"ready": False, "serving": True, "terminating": True}
        await world.finish_deletions()
        await world.settle()
        assert await endpoints(world) == []

    world_run(story)


def test_named_ports_are_looked_up_in_each_pod(world_run):
    async def story(world):
        await world.start(EndpointsController(world.context))
        ports = [{"name": "http", "port": 80, "targetPort": "web"}]
        await world.create(SERVICES, service(ports=ports))
        await running(world, pod("a", [{"name": "web", "containerPort": 8080}]), "10.0.0.1")
        await running(world, pod("b", [{"name": "web", "containerPort": 9090}]), "10.0.0.2")
        await world.settle()
        found = {
            item["endpoints"][0]["addresses"][0]: item["ports"][0]["port"]
            for item in await world.find(ENDPOINT_SLICES)
        }
        assert found == {"10.0.0.1": 8080, "10.0.0.2": 9090}

    world_run(story)


def test_a_deleted_service_takes_its_slices_along(world_run):
    async def story(world):
        await world.start(EndpointsController(world.context))
        await world.create(SERVICES, service())
        await running(world, pod("a"), "10.0.0.1")
        await world.settle()
        await world.client.delete(SERVICES, "web", "default")
        await world.settle()
        assert await world.find(ENDPOINT_SLICES) == []
        assert await world.find(ENDPOINTS) == []

    world_run(story)


def test_services_without_a_selector_are_left_to_their_maker(world_run):
    async def story(world):
        await world.start(EndpointsController(world.context))
        plain = service()
        del plain["spec"]["selector"]
        await world.create(SERVICES, plain)
        await world.settle()
        assert await world.find(ENDPOINT_SLICES) == []

    world_run(story)


def test_an_idle_service_causes_no_writes(world_run):
    async def story(world):
        await world.start(EndpointsController(world.context))
        await world.create(SERVICES, service())
        for number in range(3):
            await running(world, pod(f"p{number}"), f"10.0.0.{number + 1}")
        await world.settle()
        before = world.server.store.revision
        patch = {"metadata": {"annotations": {"unrelated": "x"}}}
        await world.client.patch(PODS, "p0", patch, "default")
        await world.settle(3600)
        assert world.server.store.revision == before + 1

    world_run(story)


def endpoint(number):
    return {"addresses": [f"10.0.0.{number}"], "targetRef": {"uid": str(number)}}


def apply(plan, held):
    gone = [id(item) for item in plan.delete]
    updated = {item["metadata"]["name"]: item for item in plan.update}
    left = [updated.get(item["metadata"]["name"], item) for item in held if id(item) not in gone]
    made = [
        {**item, "metadata": {**item["metadata"], "name": f"new-{number}-{len(held)}"}}
        for number, item in enumerate(plan.create)
    ]
    return left + made


@given(st.lists(st.sets(st.integers(0, 400)), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_slices_hold_each_endpoint_once_and_never_too_many(steps):
    owner = service()
    owner["metadata"] |= {"namespace": "default", "uid": "u"}
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    held = []
    for wanted in steps:
        pairs = [(ports, endpoint(number)) for number in sorted(wanted)]
        held = apply(model.plan_slices(owner, pairs, held), held)
        members = [e["targetRef"]["uid"] for item in held for e in item.get("endpoints") or ()]
        assert sorted(members) == sorted(map(str, wanted))
        assert all(len(item.get("endpoints") or ()) <= model.MOST_PER_SLICE for item in held)
        assert held
        again = model.plan_slices(owner, pairs, held)
        assert again == model.SlicePlan()
