from kubarium.api.kinds import CLUSTER_ROLES, CONFIG_MAPS, PODS, RESOURCE_QUOTAS
from kubarium.control.core.quotas import QuotaController
from kubarium.control.core.roles import ClusterRoleAggregation
from kubarium.control.core.served import ServedResources


def quota(**hard):
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "q"},
        "spec": {"hard": {name.replace("_", "/"): amount for name, amount in hard.items()}},
    }


def pod(name, cpu="500m"):
    resources = {"requests": {"cpu": cpu}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]},
    }


def test_a_quota_shows_what_its_namespace_uses(world_run):
    async def story(world):
        controller = QuotaController(world.context, ServedResources(world.context))
        await world.start(controller)
        await world.create(PODS, pod("old"))
        document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
        await world.create(CONFIG_MAPS, document)
        hard = {"pods": "5", "cpu": "2", "count_configmaps": "3"}
        await world.create(RESOURCE_QUOTAS, quota(**hard))
        await world.settle()
        status = (await world.get(RESOURCE_QUOTAS, "q"))["status"]
        assert status["hard"] == {"pods": "5", "cpu": "2", "count/configmaps": "3"}
        assert status["used"] == {"pods": "1", "cpu": "500m", "count/configmaps": "1"}

        await world.create(PODS, pod("new"))
        await world.client.patch(
            PODS, "old", {"status": {"phase": "Succeeded"}}, "default", subresource="status"
        )
        await world.client.delete(CONFIG_MAPS, "a", "default")
        await world.settle()
        used = (await world.get(RESOURCE_QUOTAS, "q"))["status"]["used"]
        assert used == {"pods": "1", "cpu": "500m", "count/configmaps": "0"}

        await world.client.patch(RESOURCE_QUOTAS, "q", {"spec": {"hard": {"cpu": None}}}, "default")
        await world.settle()
        status = (await world.get(RESOURCE_QUOTAS, "q"))["status"]
        assert status["used"] == {"pods": "1", "count/configmaps": "0"}

        before = controller.controller.reconciles
        await world.settle(60)
        assert controller.controller.reconciles == before

    world_run(story)


def role(name, rules=(), labels=None, select=None):
    document = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": labels or {}},
        "rules": list(rules),
    }
    if select:
        document["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": select}]}
    return document


def rule(resource):
    return {"apiGroups": [""], "resources": [resource], "verbs": ["get"]}


def test_an_aggregated_role_shows_the_rules_that_it_selects(world_run):
    async def story(world):
        await world.start(ClusterRoleAggregation(world.context))
        await world.create(CLUSTER_ROLES, role("all", select={"to": "all"}))
        await world.create(CLUSTER_ROLES, role("b", [rule("pods"), rule("nodes")], {"to": "all"}))
        await world.create(CLUSTER_ROLES, role("a", [rule("nodes")], {"to": "all"}))
        await world.create(CLUSTER_ROLES, role("other", [rule("secrets")]))
        await world.settle()
        assert (await world.get(CLUSTER_ROLES, "all"))["rules"] == [rule("nodes"), rule("pods")]
        await world.client.delete(CLUSTER_ROLES, "b")
        await world.settle()
        assert (await world.get(CLUSTER_ROLES, "all"))["rules"] == [rule("nodes")]

    world_run(story)
