"""metrics.k8s.io: measured when somebody asks, joined with pods and nodes, never stored."""

from kubarium.api.usage import NODE_METRICS, POD_METRICS, ContainerUse, PodUse

from .conftest import Http

AT = 1_700_000_000.0


def use(name, node="n1", namespace="default", **containers):
    used = {each: ContainerUse(*amounts) for each, amounts in containers.items()}
    return PodUse(namespace, name, node, AT, 10.0, used)


async def measured(w, *uses):
    async def source():
        return list(uses)

    w.server.usage.source = source
    await w.node("n1", labels={"zone": "a"})
    await w.node("n2")
    await w.pod("web", metadata={"labels": {"app": "web"}})
    await w.pod("job")


def test_pods_carry_their_labels_and_each_container(world):
    async def story(w):
        await measured(w, use("web", main=(250_000_000, 3 << 20), side=(0, 1500)))
        document = await w.client.get(POD_METRICS, "web", "default")
        assert document["metadata"]["labels"] == {"app": "web"}
        assert (document["timestamp"], document["window"]) == ("2023-11-14T22:13:20Z", "10s")
        assert document["containers"] == [
            {"name": "main", "usage": {"cpu": "250000000n", "memory": "3072Ki"}},
            {"name": "side", "usage": {"cpu": "0", "memory": "1Ki"}},
        ]

    world(story)


def test_lists_heed_namespace_and_selectors_and_leave_out_what_has_gone(world):
    async def story(w):
        await measured(
            w, use("web", main=(1, 1)), use("job", main=(2, 2)), use("gone", main=(3, 3))
        )

        async def listed(**options):
            page = await w.client.list(POD_METRICS, **options)
            return [item["metadata"]["name"] for item in page.items]

        assert await listed() == ["job", "web"]
        assert await listed(namespace="other") == []
        assert await listed(label_selector="app=web") == ["web"]
        assert await listed(field_selector="metadata.name=job") == ["job"]

    world(story)


def test_a_node_uses_what_its_pods_use(world):
    async def story(w):
        await measured(w, use("web", main=(5, 1 << 20)), use("job", main=(7, 2 << 20)))
        first, second = (await w.client.list(NODE_METRICS)).items
        assert first["usage"] == {"cpu": "12n", "memory": "3072Ki"}
        assert first["metadata"]["labels"]["zone"] == "a"
        assert second["usage"] == {"cpu": "0", "memory": "0Ki"}

    world(story)


def test_what_is_not_measured_is_404_and_without_agents_503(world):
    async def story(w):
        error = await w.refused(w.client.list(NODE_METRICS))
        assert error.code == 503
        await measured(w)
        error = await w.refused(w.client.get(POD_METRICS, "web", "default"))
        assert error.code == 404
        assert error.message == 'podmetrics.metrics.k8s.io "default/web" not found'

    world(story)


def test_it_is_discovered_and_can_only_be_read(world):
    async def story(w):
        await measured(w, use("web", main=(1, 1)))
        http, path = Http(w), "/apis/metrics.k8s.io/v1beta1"
        resources = (await http("GET", path)).json["resources"]
        assert {(r["name"], r["namespaced"], *r["verbs"]) for r in resources} == {
            ("nodes", False, "get", "list"),
            ("pods", True, "get", "list"),
        }
        assert (await http("GET", f"{path}/namespaces/default/pods/web")).status == 200
        assert (await http("DELETE", f"{path}/namespaces/default/pods/web")).status == 405
        body = {"apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics"}
        assert (await http("POST", f"{path}/namespaces/default/pods", body)).status == 405
        assert (await http("GET", f"{path}/pods?watch=true")).status == 405
        core = (await http("GET", "/apis")).json["groups"]
        assert "metrics.k8s.io" in [group["name"] for group in core]

    world(story)


def test_openapi_knows_reads_only(world):
    async def story(w):
        document = (await Http(w)("GET", "/openapi/v3/apis/metrics.k8s.io/v1beta1")).json
        item = document["paths"]["/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{name}"]
        assert sorted(item) == ["get", "parameters"]

    world(story)


def test_a_window_of_weeks_is_a_duration_too(world):
    async def story(w):
        weeks = PodUse("default", "web", "n1", AT, 1_500_000.25, {"main": ContainerUse(1, 1)})
        await measured(w, weeks)
        document = await w.client.get(POD_METRICS, "web", "default")
        assert document["window"] == "1500000.25s"

    world(story)
