"""Built-in admission: accounts and tokens, priorities, tolerations, addresses, escalation."""

import pytest

from kubarium.api.kinds import (
    CLUSTER_ROLES,
    CONFIG_MAPS,
    NAMESPACES,
    PODS,
    PRIORITY_CLASSES,
    RESOURCE_CLAIMS,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from kubarium.api.resource import Resource
from kubarium.base.errors import ApiError
from kubarium.server.authn import User
from kubarium.server.local import LocalClient

QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota", True)
LIMIT_RANGES = Resource("", "v1", "limitranges", "LimitRange", True)
ROOT = "/var/run/secrets/kubernetes.io/serviceaccount"


def test_pods_get_the_default_account_and_its_token(world):
    async def story(w):
        pod = await w.pod(initContainers=[{"name": "init", "image": "i"}])
        spec = pod["spec"]
        assert spec["serviceAccountName"] == spec["serviceAccount"] == "default"
        (volume,) = spec["volumes"]
        assert volume["name"].startswith("kube-api-access-")
        token, ca, namespace = volume["projected"]["sources"]
        assert token["serviceAccountToken"] == {"expirationSeconds": 3607, "path": "token"}
        assert ca["configMap"]["name"] == "kube-root-ca.crt"
        assert namespace["downwardAPI"]["items"][0]["path"] == "namespace"
        for container in (*spec["containers"], *spec["initContainers"]):
            (mount,) = container["volumeMounts"]
            assert mount == {"name": volume["name"], "readOnly": True, "mountPath": ROOT}
        assert await w.client.get(SERVICE_ACCOUNTS, "default", "default")

    world(story)


def test_pods_of_one_account_have_equal_specs_and_share_them(world):
    async def story(w):
        first, second = await w.pod("first"), await w.pod("second")
        assert first["spec"] is second["spec"]
        await w.client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "bot"}}, "default")
        other = await w.pod("other", serviceAccountName="bot")
        names = [p["spec"]["volumes"][0]["name"] for p in (first, other)]
        assert names[0] != names[1]

    world(story)


def test_a_spec_that_was_refused_is_refused_again(world):
    async def story(w):
        for name in ("a", "b"):
            with pytest.raises(ApiError, match="activeDeadlineSeconds") as refused:
                await w.pod(name, activeDeadlineSeconds=0)
            assert refused.value.code == 422
        await w.pod("c", activeDeadlineSeconds=1)

    world(story)


def test_tokens_are_not_mounted_where_nobody_wants_them(world):
    async def story(w):
        assert "volumes" not in (await w.pod("a", automountServiceAccountToken=False))["spec"]
        account = {"metadata": {"name": "bot"}, "automountServiceAccountToken": False}
        await w.client.create(SERVICE_ACCOUNTS, account, "default")
        assert "volumes" not in (await w.pod("b", serviceAccountName="bot"))["spec"]
        wanted = await w.pod("c", serviceAccountName="bot", automountServiceAccountToken=True)
        assert len(wanted["spec"]["volumes"]) == 1
        mount = {"name": "v", "mountPath": ROOT}
        own = await w.pod(
            "d",
            volumes=[{"name": "v", "emptyDir": {}}],
            containers=[{"name": "c", "image": "i", "volumeMounts": [mount]}],
        )
        assert [volume["name"] for volume in own["spec"]["volumes"]] == ["v"]

    world(story)


def test_accounts_must_exist_and_lend_their_pull_secrets(world):
    async def story(w):
        error = await w.refused(w.pod(serviceAccountName="ghost"))
        assert error.code == 403
        assert error.message == (
            'pods "web" is forbidden: error looking up service account default/ghost: '
            'serviceaccount "ghost" not found'
        )
        account = {"metadata": {"name": "bot"}, "imagePullSecrets": [{"name": "registry"}]}
        await w.client.create(SERVICE_ACCOUNTS, account, "default")
        pod = await w.pod(serviceAccountName="bot")
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]

    world(story)


async def priority_class(w, name, value, **rest):
    document = {"metadata": {"name": name}, "value": value, **rest}
    return await w.client.create(PRIORITY_CLASSES, document)


def test_priorities_come_from_their_class(world):
    async def story(w):
        assert (await w.pod("none"))["spec"]["priority"] == 0
        await priority_class(w, "high", 1000, preemptionPolicy="Never")
        spec = (await w.pod("high", priorityClassName="high"))["spec"]
        assert (spec["priority"], spec["preemptionPolicy"]) == (1000, "Never")
        await priority_class(w, "normal", 10, globalDefault=True)
        spec = (await w.pod("default"))["spec"]
        assert (spec["priority"], spec["priorityClassName"]) == (10, "normal")
        error = await w.refused(w.pod("x", priorityClassName="missing"))
        assert error.code == 403
        assert "no PriorityClass with name missing was found" in error.message
        error = await w.refused(w.pod("x", priorityClassName="high", priority=5))
        assert "the integer value of priority (5) must not be provided in pod spec" in error.message
        error = await w.refused(priority_class(w, "other", 20, globalDefault=True))
        assert error.code == 422
        assert "normal is already marked as default" in error.message

    world(story)


def test_pods_tolerate_five_minutes_unless_they_say_otherwise(world):
    async def story(w):
        tolerations = (await w.pod("a"))["spec"]["tolerations"]
        assert {t["key"]: t["tolerationSeconds"] for t in tolerations} == {
            "node.kubernetes.io/not-ready": 300,
            "node.kubernetes.io/unreachable": 300,
        }
        everything = [{"operator": "Exists"}]
        assert (await w.pod("b", tolerations=everything))["spec"]["tolerations"] == everything
        own = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}
        tolerations = (await w.pod("c", tolerations=[own]))["spec"]["tolerations"]
        assert [t["key"] for t in tolerations] == [
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable",
        ]
        assert "tolerationSeconds" not in tolerations[0]

    world(story)


@pytest.mark.parametrize(
    ("containers", "quality"),
    [
        ([{}], "BestEffort"),
        ([{"requests": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}, {}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}}], "Guaranteed"),
        ([{"limits": {"example.com/gpu": "1"}}], "BestEffort"),
    ],
)
def test_quality_of_service_follows_cpu_and_memory(world, containers, quality):
    async def story(w):
        listed = [
            {"name": f"c{number}", "image": "i", "resources": resources}
            for number, resources in enumerate(containers)
        ]
        assert (await w.pod(containers=listed))["status"]["qosClass"] == quality

    world(story)


async def service(w, name="s", **spec):
    document = {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]} | spec}
    return await w.client.create(SERVICES, document, "default")


def test_services_get_distinct_addresses_and_give_them_back(world):
    async def story(w):
        first, second = await service(w, "a"), await service(w, "b")
        addresses = [made["spec"]["clusterIP"] for made in (first, second)]
        assert len(set(addresses)) == 2
        assert all(address.startswith("127.96.") for address in addresses)
        assert first["spec"]["clusterIPs"] == [addresses[0]]
        error = await w.refused(service(w, "c", clusterIP=addresses[0]))
        assert error.code == 422
        assert "provided IP is already allocated" in error.message
        await w.client.delete(SERVICES, "a", "default")
        assert (await service(w, "c", clusterIP=addresses[0]))["spec"]["clusterIP"] == addresses[0]
        error = await w.refused(service(w, "d", clusterIP="10.0.0.1"))
        assert "does not match the current range" in error.message

    world(story)


def test_headless_and_external_services_have_no_address(world):
    async def story(w):
        assert (await service(w, "a", clusterIP="None"))["spec"]["clusterIPs"] == ["None"]
        external = {"type": "ExternalName", "externalName": "example.com"}
        assert "clusterIP" not in (await service(w, "b", **external))["spec"]

    world(story)


def test_updates_keep_what_was_allocated(world):
    async def story(w):
        made = await service(w, type="NodePort")
        (port,) = made["spec"]["ports"]
        assert 30000 <= port["nodePort"] <= 32767
        bare = made | {"spec": {"type": "NodePort", "ports": [{"port": 80, "name": "http"}]}}
        updated = await w.client.update(SERVICES, bare)
        assert updated["spec"]["clusterIP"] == made["spec"]["clusterIP"]
        assert updated["spec"]["ports"][0]["nodePort"] == port["nodePort"]
        taken = [{"port": 81, "nodePort": port["nodePort"]}]
        error = await w.refused(service(w, "other", type="NodePort", ports=taken))
        assert "provided port is already allocated" in error.message

    world(story)


def test_a_service_that_changes_its_type_loses_what_only_that_type_has(world):
    async def story(w):
        ways = {"externalTrafficPolicy": "Local", "loadBalancerClass": "a/b"}
        made = await service(w, type="LoadBalancer", **ways)
        inside = await w.client.update(
            SERVICES, made | {"spec": made["spec"] | {"type": "ClusterIP"}}
        )
        gone = {"allocateLoadBalancerNodePorts", "externalTrafficPolicy", "loadBalancerClass"}
        assert gone <= {*made["spec"]}
        assert not gone & {*inside["spec"]}
        assert "nodePort" not in inside["spec"]["ports"][0]
        asked = inside | {"spec": inside["spec"] | {"externalTrafficPolicy": "Local"}}
        error = await w.refused(w.client.update(SERVICES, asked))
        assert "may only be set for externally-accessible services" in error.message

    world(story)


def test_nobody_grants_what_they_do_not_have(world):
    async def story(w):
        mallory = LocalClient(w.server, User("mallory", groups=("system:authenticated",)))
        role = {
            "metadata": {"name": "everything"},
            "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
        }
        error = await w.refused(mallory.create(CLUSTER_ROLES, role))
        assert error.code == 403
        assert "is attempting to grant RBAC permissions not currently held" in error.message
        await w.client.create(CLUSTER_ROLES, role)

    world(story)


def test_each_namespace_has_its_own_default_account(world):
    async def story(w):
        await w.client.create(NAMESPACES, {"metadata": {"name": "team"}})
        await w.pod("a", "team")
        page = await w.client.list(SERVICE_ACCOUNTS)
        assert [item["metadata"]["namespace"] for item in page.items] == ["team"]
        before = w.store.revision
        await w.client.create(
            PODS,
            {"metadata": {"name": "b"}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
            "default",
            dry_run=True,
        )
        assert w.store.revision == before

    world(story)


async def quota(w, name="q", hard=None, **spec):
    document = {"metadata": {"name": name}, "spec": {"hard": hard or {}} | spec}
    return await w.client.create(QUOTAS, document, "default")


def sized(**requests):
    resources = {"requests": requests}
    return [{"name": "c", "image": "i", "resources": resources}]


def test_quotas_limit_the_sum_of_a_namespace(world):
    async def story(w):
        await quota(w, hard={"pods": "2", "requests.cpu": "3", "memory": "4Gi"})
        await w.pod("a", containers=sized(cpu="1", memory="1Gi"))
        error = await w.refused(w.pod("b", containers=sized(cpu="2500m", memory="1Gi")))
        assert error.code == 403
        assert error.message == (
            'pods "b" is forbidden: exceeded quota: q, requested: requests.cpu=2500m, '
            "used: requests.cpu=1, limited: requests.cpu=3"
        )
        await w.pod("b", containers=sized(cpu="2", memory="1Gi"))
        error = await w.refused(w.pod("c", containers=sized(cpu="0", memory="1Gi")))
        assert "requested: pods=1, used: pods=2, limited: pods=2" in error.message
        status = (await w.client.get(QUOTAS, "q", "default"))["status"]
        assert status["used"] == {"pods": "2", "requests.cpu": "3", "memory": "2Gi"}
        await w.client.delete(PODS, "a", "default")
        await w.pod("c", containers=sized(cpu="1", memory="1Gi"))

    world(story)


def test_quotas_of_cpu_want_pods_to_say_how_much(world):
    async def story(w):
        await quota(w, hard={"cpu": "3"})
        error = await w.refused(w.pod("a"))
        assert error.message == (
            'pods "a" is forbidden: failed quota: q: must specify cpu for: main'
        )

    world(story)


def test_quotas_count_objects_and_know_scopes(world):
    async def story(w):
        await quota(w, "maps", {"count/configmaps": "1"})
        await quota(w, "best", {"pods": "1"}, scopes=["BestEffort"])
        await w.client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default")
        error = await w.refused(
            w.client.create(CONFIG_MAPS, {"metadata": {"name": "b"}}, "default")
        )
        assert 'configmaps "b" is forbidden: exceeded quota: maps' in error.message
        await w.pod("a")
        await w.pod("b", containers=sized(cpu="1"))
        assert "exceeded quota: best" in (await w.refused(w.pod("c"))).message
        succeeded = {"status": {"phase": "Succeeded"}}
        await w.client.patch(PODS, "a", succeeded, "default", subresource="status")
        await w.pod("c")

    world(story)


def test_limit_ranges_fill_in_and_bound(world):
    async def story(w):
        item = {
            "type": "Container",
            "default": {"cpu": "500m"},
            "defaultRequest": {"cpu": "100m"},
            "max": {"cpu": "1"},
            "min": {"cpu": "50m"},
        }
        document = {"metadata": {"name": "l"}, "spec": {"limits": [item]}}
        await w.client.create(LIMIT_RANGES, document, "default")
        pod = await w.pod("a")
        (container,) = pod["spec"]["containers"]
        assert container["resources"] == {"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}}
        assert pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"] == (
            "LimitRanger plugin set: cpu limit for container main; cpu request for container main"
        )
        large = [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "2"}}}]
        error = await w.refused(w.pod("b", containers=large))
        assert error.code == 403
        assert "maximum cpu usage per Container is 1, but limit is 2" in error.message
        error = await w.refused(w.pod("c", containers=sized(cpu="10m")))
        assert "minimum cpu usage per Container is 50m, but request is 10m" in error.message

    world(story)


def test_admin_access_needs_a_labelled_namespace(world):
    async def story(w):
        request = {"name": "r", "exactly": {"deviceClassName": "gpu", "adminAccess": True}}
        claim = {"metadata": {"name": "c"}, "spec": {"devices": {"requests": [request]}}}
        error = await w.refused(w.client.create(RESOURCE_CLAIMS, claim, "default"))
        assert error.code == 422
        assert "admin access to devices requires" in error.message
        label = {"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}
        await w.client.patch(NAMESPACES, "default", label)
        await w.client.create(RESOURCE_CLAIMS, claim, "default")

    world(story)


RESULT = {"request": "r", "driver": "d.example.com", "pool": "p", "device": "d"}


def test_an_allocation_with_admin_access_needs_a_labelled_namespace(world):
    """Whatever the claim asks for: who may write its status might write more into it."""

    async def story(w):
        request = {"name": "r", "exactly": {"deviceClassName": "gpu"}}
        claim = {"metadata": {"name": "c"}, "spec": {"devices": {"requests": [request]}}}
        await w.client.create(RESOURCE_CLAIMS, claim, "default")
        results = [RESULT, RESULT | {"device": "e", "adminAccess": True}]

        def allocate(**more):
            status = {"allocation": {"devices": {"results": results}}, **more}
            return w.client.patch(
                RESOURCE_CLAIMS, "c", {"status": status}, "default", subresource="status"
            )

        error = await w.refused(allocate())
        assert error.code == 422
        assert "status.allocation.devices.results[1].adminAccess: Forbidden" in error.message
        label = {"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}
        await w.client.patch(NAMESPACES, "default", label)
        await allocate()
        label["metadata"]["labels"]["resource.kubernetes.io/admin-access"] = None
        await w.client.patch(NAMESPACES, "default", label)
        await allocate(reservedFor=[{"resource": "pods", "name": "p", "uid": "1"}])

    world(story)


def test_what_was_said_of_devices_goes_with_them(world):
    async def story(w):
        request = {"name": "r", "exactly": {"deviceClassName": "gpu", "count": 2}}
        claim = {"metadata": {"name": "c"}, "spec": {"devices": {"requests": [request]}}}
        await w.client.create(RESOURCE_CLAIMS, claim, "default")
        results = [RESULT, RESULT | {"device": "e"}]
        told = [{k: r[k] for k in ("driver", "pool", "device")} for r in results]

        def write(**status):
            return w.client.patch(
                RESOURCE_CLAIMS, "c", {"status": status}, "default", subresource="status"
            )

        full = await write(allocation={"devices": {"results": results}}, devices=told)
        assert full["status"]["devices"] == told
        bare = await write(allocation=None)
        assert not bare.get("status")
        error = await w.refused(write(devices=told))
        assert "must be an allocated device in the claim" in error.message

    world(story)
