"""Defaults are upstream's, and giving them twice changes nothing."""

import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.defaulting import default
from kubarium.api.defaulting.pods import pull_policy

CATALOG = Catalog.builtin()


def defaulted(api_version: str, kind: str, **fields):
    document = {"apiVersion": api_version, "kind": kind, **fields}
    default(CATALOG.for_document(api_version, kind), document)
    return document


def container(**fields):
    return {"name": "c", "image": "busybox:1.36", **fields}


def pod(**spec):
    return defaulted("v1", "Pod", spec={"containers": [container()], **spec})


def test_a_pod_gets_the_policies_that_upstream_gives():
    document = pod()
    spec = document["spec"]
    assert spec | {"containers": []} == {
        "containers": [],
        "dnsPolicy": "ClusterFirst",
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
        "enableServiceLinks": True,
    }
    assert spec["containers"] == [
        container(
            imagePullPolicy="IfNotPresent",
            terminationMessagePath="/dev/termination-log",
            terminationMessagePolicy="File",
            resources={},
        )
    ]
    assert document["status"] == {"phase": "Pending"}


def test_an_empty_string_counts_as_absent_and_zero_does_not():
    spec = pod(restartPolicy="", terminationGracePeriodSeconds=0)["spec"]
    assert spec["restartPolicy"] == "Always"
    assert spec["terminationGracePeriodSeconds"] == 0


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("busybox", "Always"),
        ("busybox:latest", "Always"),
        ("busybox:1.36", "IfNotPresent"),
        ("registry:5000/a/b", "Always"),
        ("registry:5000/a/b:v1", "IfNotPresent"),
        ("busybox@sha256:abc", "IfNotPresent"),
        ("", "Always"),
    ],
)
def test_images_are_always_pulled_when_their_tag_moves(image, policy):
    assert pull_policy(image) == policy


def test_requests_follow_limits_in_pods_and_not_in_templates():
    limits = {"limits": {"cpu": "1"}}
    spec = {"containers": [container(resources={**limits})]}
    document = defaulted("v1", "Pod", spec=spec)
    assert document["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "1"}
    spec = {"containers": [container(resources={**limits})]}
    job = defaulted("batch/v1", "Job", spec={"template": {"spec": spec}})
    assert "requests" not in job["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert "enableServiceLinks" not in job["spec"]["template"]["spec"]


def test_probes_and_ports_and_env_get_their_defaults():
    probe = {"httpGet": {"port": 80}}
    env = [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    spec = {
        "containers": [
            container(readinessProbe=probe, ports=[{"containerPort": 80}], env=env),
        ]
    }
    found = defaulted("v1", "Pod", spec=spec)["spec"]["containers"][0]
    assert found["readinessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert found["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert env[0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"


def test_volumes_get_modes_and_a_bare_one_is_an_empty_dir():
    volumes = [
        {"name": "a"},
        {"name": "b", "configMap": {"name": "x"}},
        {"name": "c", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
        {"name": "d", "hostPath": {"path": "/x"}},
    ]
    pod(volumes=volumes)
    assert volumes[0] == {"name": "a", "emptyDir": {}}
    assert volumes[1]["configMap"]["defaultMode"] == 420
    assert volumes[2]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"] == 3600
    assert volumes[3]["hostPath"] == {"path": "/x", "type": ""}


def test_host_network_publishes_container_ports():
    spec = {"hostNetwork": True, "containers": [container(ports=[{"containerPort": 80}])]}
    ports = defaulted("v1", "Pod", spec=spec)["spec"]["containers"][0]["ports"]
    assert ports[0]["hostPort"] == 80


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("1n", "1m"),
        ("500u", "1m"),
        ("2.0005", "2001m"),
        ("1.5", "1.5"),
        ("0.5m", "1m"),
        ("1e-5", "1m"),
        ("0.0001Ki", "103m"),
        ("1E", "1E"),
        ("250m", "250m"),
        ("four.", "four."),
    ],
)
def test_quantities_are_no_finer_than_a_thousandth(given, kept):
    """Upstream rounds resource lists up as it defaults them."""
    resources = {"requests": {"cpu": given}, "limits": {"cpu": given}}
    spec = {"containers": [container(resources=resources)], "overhead": {"cpu": given}}
    template = defaulted("apps/v1", "Deployment", spec={"template": {"spec": spec}})
    found = template["spec"]["template"]["spec"]
    assert found["containers"][0]["resources"] == {
        "requests": {"cpu": kept},
        "limits": {"cpu": kept},
    }
    assert found["overhead"] == {"cpu": kept}
    assert defaulted("v1", "Node", status={"capacity": {"cpu": given}})["status"] == {
        "capacity": {"cpu": kept},
        "allocatable": {"cpu": kept},
    }


def test_what_a_node_says_is_allocatable_is_all_there_is():
    status = {"capacity": {"cpu": "4", "example.com/gpu": "8"}, "allocatable": {"cpu": "3"}}
    assert defaulted("v1", "Node", status=status)["status"]["allocatable"] == {"cpu": "3"}


def test_a_deployment_rolls_by_a_quarter():
    spec = defaulted("apps/v1", "Deployment", spec={})["spec"]
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"},
    }
    assert (spec["replicas"], spec["revisionHistoryLimit"]) == (1, 10)
    assert spec["progressDeadlineSeconds"] == 600


def test_a_recreate_deployment_does_not_roll():
    spec = defaulted("apps/v1", "Deployment", spec={"strategy": {"type": "Recreate"}})["spec"]
    assert spec["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        ({}, {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 1}}),
        ({"type": "RollingUpdate"}, {"type": "RollingUpdate"}),
        (
            {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "20%"}},
            {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": "20%"}},
        ),
        (
            {"rollingUpdate": {"partition": 2}},
            {"type": "RollingUpdate", "rollingUpdate": {"partition": 2, "maxUnavailable": 1}},
        ),
        ({"type": "OnDelete"}, {"type": "OnDelete"}),
    ],
)
def test_a_stateful_set_rolls_one_by_one(given, filled):
    made = defaulted("apps/v1", "StatefulSet", spec={"updateStrategy": given})
    assert made["spec"]["updateStrategy"] == filled


def job(**spec):
    return defaulted("batch/v1", "Job", spec=spec)["spec"]


def test_a_job_runs_once_unless_parallelism_makes_it_a_work_queue():
    assert (job()["completions"], job()["parallelism"]) == (1, 1)
    assert "completions" not in job(parallelism=3)
    assert job(completions=3)["parallelism"] == 1


def test_a_jobs_backoff_limit_depends_on_the_limit_per_index():
    assert job()["backoffLimit"] == 6
    assert job(backoffLimitPerIndex=1)["backoffLimit"] == 2**31 - 1


def test_pod_replacement_waits_for_failure_with_a_failure_policy():
    assert job()["podReplacementPolicy"] == "TerminatingOrFailed"
    policy = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}
    spec = job(podFailurePolicy=policy)
    assert spec["podReplacementPolicy"] == "Failed"
    assert policy["rules"][0]["onPodConditions"][0]["status"] == "True"


def test_a_job_without_labels_takes_those_of_its_template():
    template = {"metadata": {"labels": {"a": "b"}}}
    document = defaulted("batch/v1", "Job", spec={"template": template})
    assert document["metadata"]["labels"] == {"a": "b"}


def test_a_service_targets_its_own_port():
    spec = defaulted("v1", "Service", spec={"ports": [{"port": 80}]})["spec"]
    assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert (spec["type"], spec["sessionAffinity"]) == ("ClusterIP", "None")
    assert spec["internalTrafficPolicy"] == "Cluster"
    assert "externalTrafficPolicy" not in spec


def test_device_requests_want_exactly_one():
    requests = [
        {"name": "a", "exactly": {"deviceClassName": "x"}},
        {"name": "b", "firstAvailable": [{"name": "c", "deviceClassName": "x"}]},
        {"name": "d", "exactly": {"deviceClassName": "x", "allocationMode": "All"}},
    ]
    defaulted("resource.k8s.io/v1", "ResourceClaim", spec={"devices": {"requests": requests}})
    assert requests[0]["exactly"]["count"] == 1
    assert requests[1]["firstAvailable"][0]["allocationMode"] == "ExactCount"
    assert "count" not in requests[2]["exactly"]


def test_a_pool_status_request_is_told_of_a_hundred_pools():
    spec = {"driver": "gpu.example.com"}
    document = defaulted("resource.k8s.io/v1alpha3", "ResourcePoolStatusRequest", spec=spec)
    assert document["spec"]["limit"] == 100


def test_subjects_and_role_references_get_the_rbac_group():
    document = defaulted(
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        roleRef={"kind": "Role", "name": "r"},
        subjects=[{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}],
    )
    assert document["roleRef"]["apiGroup"] == "rbac.authorization.k8s.io"
    assert document["subjects"][0]["apiGroup"] == "rbac.authorization.k8s.io"
    assert "apiGroup" not in document["subjects"][1]


def test_a_namespace_is_labelled_with_its_name():
    document = defaulted("v1", "Namespace", metadata={"name": "n"})
    assert document["metadata"]["labels"] == {"kubernetes.io/metadata.name": "n"}
    assert document["status"] == {"phase": "Active"}


def test_a_definition_gets_its_derived_names():
    names = {"plural": "foos", "kind": "Foo"}
    spec = defaulted("apiextensions.k8s.io/v1", "CustomResourceDefinition", spec={"names": names})[
        "spec"
    ]
    assert (names["singular"], names["listKind"]) == ("foo", "FooList")
    assert spec["conversion"] == {"strategy": "None"}


def pod_level(resources, *containers, init=()):
    spec = {
        "resources": resources,
        "containers": [
            {"name": f"c{i}", "image": "a", "resources": each} for i, each in enumerate(containers)
        ],
        "initContainers": [{"name": f"i{i}", "image": "a", **each} for i, each in enumerate(init)],
    }
    return defaulted("v1", "Pod", spec=spec)["spec"]["resources"]


def test_a_pod_with_limits_asks_for_what_its_containers_do_and_else_for_the_limit():
    asks = {"requests": {"cpu": "500m"}}
    found = pod_level({"limits": {"cpu": "2", "memory": "2Gi"}}, asks, {})
    assert found["requests"] == {"cpu": "500m", "memory": "2Gi"}
    found = pod_level({"limits": {"cpu": "2"}}, asks, {"requests": {"cpu": "1", "memory": "1Gi"}})
    assert found["requests"] == {"cpu": "1500m", "memory": "1Gi"}
    sidecar = {"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}
    brief = {"resources": {"requests": {"cpu": "3"}}}
    found = pod_level({"limits": {"cpu": "8"}}, asks, init=(sidecar, brief))
    assert found["requests"] == {"cpu": "4"}


def test_a_pod_without_limits_asks_for_no_more_than_it_says():
    assert pod_level({"requests": {"cpu": "1"}}, {"requests": {"memory": "1Gi"}}) == {
        "requests": {"cpu": "1"}
    }


def test_huge_pages_of_containers_are_the_pods_too():
    pages = {"limits": {"hugepages-2Mi": "4Mi"}, "requests": {"hugepages-2Mi": "4Mi"}}
    found = pod_level({"requests": {"cpu": "1"}}, pages, pages)
    assert found["limits"] == {"hugepages-2Mi": "8Mi"}
    assert found["requests"] == {"cpu": "1", "hugepages-2Mi": "8Mi"}
    found = pod_level({"requests": {"hugepages-2Mi": "16Mi"}}, pages)
    assert found == {"requests": {"hugepages-2Mi": "16Mi"}}
