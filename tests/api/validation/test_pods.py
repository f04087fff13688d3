"""Pods: each rule bites where it should, in upstream's words, and good pods pass."""

import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.decode import conform
from kubarium.api.defaulting import default
from kubarium.api.resource import copy_document
from kubarium.api.validation import validate_create, validate_update

PODS = Catalog.builtin().lookup("", "v1", "pods")


def container(**fields) -> dict:
    return {"name": "c", "image": "busybox:1.36", **fields}


def pod(*containers, metadata=None, **spec) -> dict:
    document = {
        "metadata": {"name": "p", "namespace": "default", **(metadata or {})},
        "spec": {"containers": list(containers) or [container()], **spec},
    }
    assert conform(PODS, document) == []
    default(PODS, document)
    return document


def complaints(document) -> list[str]:
    return [str(error) for error in validate_create(PODS, document)]


def only(document) -> str:
    found = complaints(document)
    assert len(found) == 1, found
    return found[0]


def test_a_plain_pod_is_fine():
    assert complaints(pod()) == []


def test_a_pod_using_most_of_the_api_is_fine():
    document = pod(
        container(
            env=[
                {"name": "A", "value": ""},
                {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['x/y']"}}},
                {"name": "D", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            ],
            ports=[{"containerPort": 80, "name": "http"}],
            resources={
                "limits": {"cpu": "1", "nvidia.com/gpu": "1"},
                "claims": [{"name": "gpu", "request": "main"}],
            },
            volumeMounts=[{"name": "v", "mountPath": "/v", "subPath": "a/b"}],
            livenessProbe={"httpGet": {"port": "http"}},
        ),
        initContainers=[
            container(
                name="side", restartPolicy="Always", startupProbe={"exec": {"command": ["x"]}}
            )
        ],
        volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}],
        tolerations=[{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoSchedule"}],
        resourceClaims=[{"name": "gpu", "resourceClaimTemplateName": "t"}],
        topologySpreadConstraints=[
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
        ],
        affinity={
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}
                    ]
                }
            }
        },
        schedulingGates=[{"name": "kueue.x-k8s.io/admission"}],
    )
    assert complaints(document) == []


def test_containers_are_required():
    document = pod()
    document["spec"]["containers"] = []
    assert only(document) == "spec.containers: Required value"


def test_names_too_long_or_malformed_are_refused():
    document = pod(metadata={"name": "a" * 254})
    assert only(document).endswith("must be no more than 253 bytes")
    assert "a lowercase RFC 1123 subdomain" in only(pod(metadata={"name": "Bad"}))
    assert "must be no more than 63 bytes" in only(pod(container(name="a" * 64)))


def test_a_name_or_a_prefix_is_required():
    document = pod()
    del document["metadata"]["name"]
    wanted = "metadata.name: Required value: name or generateName is required"
    assert only(document) == wanted


def test_container_names_are_unique_across_init_containers():
    document = pod(container(), initContainers=[container()])
    assert only(document) == 'spec.initContainers[0].name: Duplicate value: "c"'


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": ""}, "spec.containers[0].image: Required value"),
        (
            {"image": " x"},
            'spec.containers[0].image: Invalid value: " x": '
            "must not have leading or trailing whitespace",
        ),
        (
            {"imagePullPolicy": "Perhaps"},
            'spec.containers[0].imagePullPolicy: Unsupported value: "Perhaps": '
            'supported values: "Always", "IfNotPresent", "Never"',
        ),
        (
            {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            'spec.containers[0].volumeMounts[0].name: Not found: "v"',
        ),
        (
            {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
            'spec.containers[0].resources.requests: Invalid value: "2": '
            "must be less than or equal to cpu limit of 1",
        ),
        (
            {"resources": {"requests": {"memory": "-1"}}},
            'spec.containers[0].resources.requests[memory]: Invalid value: "-1": '
            "must be greater than or equal to 0",
        ),
        (
            {"resources": {"limits": {"a.b/c": "500m"}}},
            'spec.containers[0].resources.limits[a.b/c]: Invalid value: "500m": must be an integer',
        ),
        (
            {"resources": {"claims": [{"name": "gpu"}]}},
            'spec.containers[0].resources.claims[0]: Not found: "gpu": '
            "must be one of the names in pod.spec.resourceClaims which is empty",
        ),
        (
            {"ports": [{"containerPort": 0}]},
            "spec.containers[0].ports[0].containerPort: Required value",
        ),
        (
            {"ports": [{"containerPort": 65536}]},
            "spec.containers[0].ports[0].containerPort: Invalid value: 65536: "
            "must be between 1 and 65535, inclusive",
        ),
        (
            {"livenessProbe": {}},
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            {"startupProbe": {"successThreshold": 2, "exec": {"command": ["x"]}}},
            "spec.containers[0].startupProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.foo"}}}]},
            'spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "spec.foo": '
            "error converting fieldPath: field label not supported: spec.foo",
        ),
    ],
)
def test_containers_are_checked(fields, message):
    document = pod(container(**fields))
    document["spec"]["containers"][0].update({k: v for k, v in fields.items() if v == ""})
    assert message in complaints(document)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"restartPolicy": "Sometimes"},
            'spec.restartPolicy: Unsupported value: "Sometimes": '
            'supported values: "Always", "OnFailure", "Never"',
        ),
        (
            {"activeDeadlineSeconds": 0},
            "spec.activeDeadlineSeconds: Invalid value: 0: "
            "must be between 1 and 2147483647, inclusive",
        ),
        (
            {"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}]},
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            {"volumes": [{"name": "v", "secret": {"secretName": "s", "defaultMode": 512}}]},
            "spec.volumes[0].secret.defaultMode: Invalid value: 512: "
            "must be a number between 0 and 0777 (octal), both inclusive",
        ),
        (
            {"tolerations": [{"key": "a", "tolerationSeconds": 3}]},
            'spec.tolerations[0].effect: Invalid value: "": '
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        ),
        (
            {"tolerations": [{"key": "a", "operator": "Gt", "value": "007"}]},
            'spec.tolerations[0].value: Invalid value: "007": '
            "must be a valid decimal integer in canonical form",
        ),
        (
            {"nodeName": "n", "schedulingGates": [{"name": "g"}]},
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ),
        (
            {"dnsPolicy": "None"},
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            {"hostname": "a.b"},
            'spec.hostname: Invalid value: "a.b": must not contain dots',
        ),
        (
            {"ephemeralContainers": [container(name="d")]},
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
    ],
)
def test_pod_specs_are_checked(spec, message):
    assert message in complaints(pod(**spec))


def pod_level(of_pod, *of_containers, init=()):
    """Complaints about a pod with these resources, and containers with theirs."""
    names = iter("abcdefgh")
    spec = {"resources": of_pod}
    if init:
        spec["initContainers"] = [container(**entry | {"name": next(names)}) for entry in init]
    return complaints(
        pod(*[container(name=next(names), resources=found) for found in of_containers], **spec)
    )


def test_containers_fit_into_what_their_pod_says():
    of_pod = {"requests": {"memory": "128Mi", "cpu": "1"}, "limits": {"memory": "256Mi"}}
    half = {"requests": {"memory": "64Mi", "cpu": "500m"}}
    assert pod_level(of_pod, half, half) == []
    assert pod_level(of_pod, half, half, {"requests": {"memory": "1Mi"}}) == [
        'spec.resources.requests[memory]: Invalid value: "128Mi": '
        "must be greater than or equal to aggregate container requests of 129Mi"
    ]
    assert pod_level(of_pod, {}, {"limits": {"memory": "1Gi"}, "requests": {"memory": "1Mi"}}) == [
        'spec.containers[1].resources.limits[memory]: Invalid value: "1Gi": '
        "must be less than or equal to pod limits of 256Mi"
    ]
    assert pod_level({"requests": {"ephemeral-storage": "1Gi"}}, {}) == [
        "spec.resources.requests[ephemeral-storage]: Unsupported value: "
        '"ephemeral-storage": supported values: "cpu", "hugepages-", "memory"'
    ]


def test_init_containers_count_beside_the_sidecars_that_run_with_them():
    of_pod = {"requests": {"memory": "100Mi"}}
    side = {"restartPolicy": "Always", "resources": {"requests": {"memory": "40Mi"}}}
    init = {"resources": {"requests": {"memory": "60Mi"}}}
    assert pod_level(of_pod, {"requests": {"memory": "60Mi"}}, init=(side, init)) == []
    assert pod_level(of_pod, {"requests": {"memory": "60Mi"}}, init=(init, side, init)) == []
    [found] = pod_level(of_pod, {"requests": {"memory": "1Mi"}}, init=(side, side, init))
    assert "aggregate container requests of 140Mi" in found


def test_init_containers_have_no_probes_unless_they_are_sidecars():
    probe = {"exec": {"command": ["x"]}}
    document = pod(initContainers=[container(name="i", readinessProbe=probe)])
    assert only(document) == (
        "spec.initContainers[0].readinessProbe: Forbidden: "
        "may not be set for init containers without restartPolicy=Always"
    )


# --- updates -------------------------------------------------------------------------------------


def changes(old, change) -> list[str]:
    new = copy_document(old)
    change(new)
    return [str(error) for error in validate_update(PODS, new, old)]


def test_images_and_tolerations_may_change():
    old = pod(tolerations=[{"key": "a", "operator": "Exists"}])

    def change(new):
        new["spec"]["containers"][0]["image"] = "other:1"
        new["spec"]["tolerations"].append({"key": "b", "operator": "Exists"})

    assert changes(old, change) == []


def test_other_fields_of_a_pod_are_frozen():
    found = changes(pod(), lambda new: new["spec"].update(hostNetwork=True))
    assert len(found) == 1
    assert found[0].startswith("spec: Forbidden: pod updates may not change fields other than")
    assert "hostNetwork: None -> True" in found[0]


def test_an_existing_toleration_may_not_go():
    old = pod(tolerations=[{"key": "a", "operator": "Exists"}])
    found = changes(old, lambda new: new["spec"].pop("tolerations"))
    assert found == [
        "spec.tolerations: Forbidden: existing toleration can not be modified except its "
        "tolerationSeconds"
    ]


def test_gates_may_go_and_never_come():
    old = pod(schedulingGates=[{"name": "a"}, {"name": "b"}])
    assert changes(old, lambda new: new["spec"]["schedulingGates"].pop()) == []
    found = changes(old, lambda new: new["spec"]["schedulingGates"].append({"name": "c"}))
    assert found == [
        "spec.schedulingGates[2].name: Forbidden: only deletion is allowed, but found new "
        "scheduling gate 'c'"
    ]


def test_a_gated_pod_may_be_narrowed_and_not_widened():
    old = pod(schedulingGates=[{"name": "a"}], nodeSelector={"zone": "a"})
    assert changes(old, lambda new: new["spec"]["nodeSelector"].update(arch="arm")) == []
    found = changes(old, lambda new: new["spec"].update(nodeSelector={"zone": "b"}))
    wanted = "only additions to spec.nodeSelector are allowed (no mutations or deletions)"
    assert found[0].endswith(wanted)
    free = pod(nodeSelector={"zone": "a"})
    assert changes(free, lambda new: new["spec"]["nodeSelector"].update(arch="arm")) != []


def test_identity_is_immutable():
    old = pod(metadata={"uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"})
    found = changes(old, lambda new: new["metadata"].update(uid="other"))
    assert found == ['metadata.uid: Invalid value: "other": field is immutable']


def test_a_dying_object_gets_no_new_finalizers():
    dying = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a.b/c"]}
    old = pod(metadata=dying)
    assert changes(old, lambda new: new["metadata"].update(finalizers=[])) == []
    found = changes(old, lambda new: new["metadata"]["finalizers"].append("a.b/d"))
    assert "no new finalizers can be added if the object is being deleted" in found[0]


def test_labels_annotations_and_owners_are_checked():
    found = complaints(
        pod(
            metadata={
                "labels": {"a b": "x", "ok": "-"},
                "annotations": {"k": "v" * 2**18},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u"}],
                "finalizers": ["two words"],
            }
        )
    )
    assert any(text.startswith('metadata.labels: Invalid value: "a b"') for text in found)
    assert any(text.startswith('metadata.labels: Invalid value: "-"') for text in found)
    assert "metadata.annotations: Too long: may not be more than 262144 bytes" in found
    assert any("disallowed from being an owner" in text for text in found)
    assert any(text.startswith("metadata.finalizers: Invalid value") for text in found)


def restart_rule(**fields):
    return {"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}, **fields}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"restartPolicy": "Never", "restartPolicyRules": [restart_rule()]}, ""),
        ({"restartPolicyRules": [restart_rule()]}, "restartPolicy: Required value"),
        (
            {"restartPolicy": "Never", "restartPolicyRules": [restart_rule()] * 21},
            "restartPolicyRules: Too many: 21: must have at most 20 items",
        ),
        (
            {"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart"}]},
            "restartPolicyRules[0].exitCodes: Required value",
        ),
        (
            {
                "restartPolicy": "Never",
                "restartPolicyRules": [restart_rule(exitCodes={"operator": "Is"})],
            },
            'exitCodes.operator: Unsupported value: "Is"',
        ),
        (
            {
                "restartPolicy": "Never",
                "restartPolicyRules": [
                    restart_rule(exitCodes={"operator": "In", "values": list(range(256))})
                ],
            },
            "exitCodes.values: Too many: 256",
        ),
    ],
)
def test_restart_rules_of_containers(fields, said):
    found = complaints(pod(container(**fields), restartPolicy="Never"))
    assert found == [] if not said else len(found) == 1 and said in found[0], found


IN = {"key": "k", "operator": "In", "values": ["-x"]}
BAD_VALUE = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"


def node_affinity(kind, term):
    if kind.startswith("required"):
        return {"nodeAffinity": {kind: {"nodeSelectorTerms": [term]}}}
    return {"nodeAffinity": {kind: [{"weight": 1, "preference": term}]}}


def test_what_node_affinity_requires_must_be_values_that_labels_can_have():
    """In a preference upstream lets them pass."""
    for operator in ("In", "NotIn", "Gt"):
        term = {"matchExpressions": [{**IN, "operator": operator}]}
        document = pod(
            affinity=node_affinity("requiredDuringSchedulingIgnoredDuringExecution", term)
        )
        assert only(document).startswith(
            f"{BAD_VALUE}.nodeSelectorTerms[0].matchExpressions[0].values[0]: "
            'Invalid value: "-x": a valid label must be an empty string or consist of'
        )
        preferred = node_affinity("preferredDuringSchedulingIgnoredDuringExecution", term)
        assert complaints(pod(affinity=preferred)) == []


def test_a_node_that_affinity_names_has_a_name_that_nodes_can_have():
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["No"]}]}
    document = pod(affinity=node_affinity("preferredDuringSchedulingIgnoredDuringExecution", term))
    assert "matchFields[0].values[0]: Invalid value: " in only(document)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"matchLabelKeys": ["v"]},
            "matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
        ),
        (
            {
                "labelSelector": {
                    "matchLabels": {"v": "1"},
                    "matchExpressions": [{"key": "v", "operator": "In", "values": ["1"]}],
                },
                "matchLabelKeys": ["v"],
            },
            '[0]: Invalid value: "v": exists in both matchLabelKeys and labelSelector',
        ),
        (
            {"labelSelector": {}, "matchLabelKeys": ["v"], "mismatchLabelKeys": ["v"]},
            'matchLabelKeys[0]: Invalid value: "v": '
            "exists in both matchLabelKeys and mismatchLabelKeys",
        ),
        ({"labelSelector": {}, "matchLabelKeys": ["v"], "mismatchLabelKeys": ["w"]}, ""),
    ],
)
def test_label_keys_come_with_a_selector_that_does_not_speak_of_them(fields, message):
    term = {"topologyKey": "zone", **fields}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    found = complaints(pod(affinity={"podAffinity": {required: [term]}}))
    path = f"spec.affinity.podAffinity.{required}[0]"
    wanted = f"{path}{message}" if message.startswith("[") else f"{path}.{message}"
    assert found == ([wanted] if message else [])


def publishing(*ports):
    return {"ports": [{"containerPort": 80, **port} for port in ports]}


def test_a_port_of_the_host_is_taken_once():
    twice = pod(
        container(**publishing({"hostPort": 81}, {"hostPort": 81, "protocol": "UDP"})),
        container(name="d", **publishing({"hostPort": 81}, {"hostPort": 81, "hostIP": "10.0.0.1"})),
    )
    assert only(twice) == 'spec.containers[1].ports[0].hostPort: Duplicate value: "TCP//81"'
    # Init containers run one after the other, and before the others.
    init = [container(name=name, **publishing({"hostPort": 81})) for name in ("a", "b")]
    assert complaints(pod(container(**publishing({"hostPort": 81})), initContainers=init)) == []


def test_ports_on_the_hosts_network_are_the_hosts():
    port = publishing({"hostPort": 81})
    init = [container(name="i", **port)]
    assert only(pod(container(**port), hostNetwork=True, initContainers=init)) == (
        "spec.containers[0].ports[0].hostPort: Invalid value: 81: "
        "must match `containerPort` when `hostNetwork` is true"
    )


def test_an_image_that_is_mounted_has_a_name():
    image = {"pullPolicy": "Sometimes"}
    assert complaints(pod(volumes=[{"name": "v", "image": image}])) == [
        'spec.volumes[0].image.pullPolicy: Unsupported value: "Sometimes": supported values: '
        '"Always", "IfNotPresent", "Never"',
        "spec.volumes[0].image.reference: Required value",
    ]


def test_of_two_equal_spread_constraints_the_first_is_named():
    spread = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    assert only(pod(topologySpreadConstraints=[spread, dict(spread)])) == (
        "spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: "
        'Duplicate value: "{zone, DoNotSchedule}"'
    )


def test_huge_pages_are_whole_and_come_with_cpu_or_memory():
    def paged(pages, **more):
        amounts = {"hugepages-2Mi": pages, **more}
        return complaints(pod(container(resources={"limits": amounts})))

    assert paged("4Mi", cpu="1") == []
    at = "spec.containers[0].resources"
    assert paged("4Mi") == [f"{at}: Forbidden: HugePages require cpu or memory"]
    assert paged("3Mi", memory="1Gi") == [
        f'{at}.{part}[hugepages-2Mi]: Invalid value: "3Mi": '
        "3Mi is not positive integer multiple of hugepages-2Mi"
        for part in ("limits", "requests")
    ]
