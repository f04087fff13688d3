"""Subresources of pods: what a status, a resize and ephemeral containers may say."""

import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.decode import conform
from kubarium.api.defaulting import default
from kubarium.api.manifests import decode_yaml
from kubarium.api.validation import validate_status_update
from kubarium.api.validation.pod_updates import check_ephemeral_containers
from kubarium.api.validation.resizes import check_resize

PODS = Catalog.builtin().lookup("", "v1", "pods")


def pod(spec: str = "{}", status: str = "{}") -> dict:
    given = decode_yaml(spec)[0]
    document = {
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "x:1", **given.pop("c", {})}], **given},
        "status": decode_yaml(status)[0],
    }
    assert conform(PODS, document) == []
    default(PODS, document)
    return document


def texts(errors) -> list[str]:
    return [str(error) for error in errors]


def told(status: str, before: str = "{}", spec: str = "{}") -> list[str]:
    return texts(validate_status_update(PODS, pod(spec, status), pod(spec, before)))


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (
            "{podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}",
            [
                'status.podIPs: Invalid value: [{"ip":"10.0.0.1"},{"ip":"10.0.0.2"}]: '
                "may specify no more than one IP for each IP family"
            ],
        ),
        ("{podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}", []),
        (
            "{hostIP: 10.0.0.1, hostIPs: [{ip: 10.0.0.2}]}",
            ['status.hostIPs[0].ip: Invalid value: "10.0.0.2": must be equal to `hostIP`'],
        ),
        (
            "{conditions: [{type: a/, status: 'True'}]}",
            ['status.conditions[0].Type: Invalid value: "a/": name part must be non-empty'],
        ),
        (
            "{resourceClaimStatuses: [{name: gpu}]}",
            [
                'status.resourceClaimStatuses[0].name: Invalid value: "gpu": '
                "must match the name of an entry in `spec.resourceClaims`"
            ],
        ),
        (
            "{containerStatuses: [{name: c, allocatedResourcesStatus: "
            "[{name: a.b/c, resources: [{resourceID: x, health: Ill}]}]}]}",
            [
                "status.containerStatuses[0].allocatedResourcesStatus[0].name: "
                'Invalid value: "a.b/c": must match one of the container\'s resource requests',
                "status.containerStatuses[0].allocatedResourcesStatus[0].resources[0].health: "
                'Unsupported value: "Ill": supported values: "Healthy", "Unhealthy", "Unknown"',
            ],
        ),
        (
            "{extendedResourceClaimStatus: {resourceClaimName: x, requestMappings: "
            "[{containerName: d, resourceName: a.b/c, requestName: r}]}}",
            [
                "status.extendedResourceClaimStatus.requestMappings[0].containerName: "
                'Invalid value: "d": must match the name of an entry in '
                "spec.initContainers.name or spec.containers.name"
            ],
        ),
    ],
)
def test_statuses(status, found):
    said = told(status)
    assert said[: len(found)] == found
    assert bool(said) == bool(found)


def test_a_bound_pod_is_nominated_nowhere():
    assert told("{nominatedNodeName: n}") == []
    assert told("{nominatedNodeName: n}", spec="{nodeName: n}") == [
        "status.nominatedNodeName: Forbidden: "
        "may not be set on pods that are already bound to a node"
    ]
    kept = "{nominatedNodeName: n}"
    assert told(kept, kept, "{nodeName: n}") == []


RULES = "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]"


@pytest.mark.parametrize(
    ("spec", "code", "may"),
    [
        ("{restartPolicy: Always}", 0, True),
        ("{restartPolicy: OnFailure}", 0, False),
        ("{restartPolicy: OnFailure}", 1, True),
        ("{restartPolicy: Never}", 1, False),
        (f"{{restartPolicy: Never, c: {{restartPolicy: Never, {RULES}}}}}", 42, True),
        (f"{{restartPolicy: Always, c: {{restartPolicy: Never, {RULES}}}}}", 1, False),
        ("{restartPolicy: Never, c: {restartPolicy: OnFailure}}", 1, True),
    ],
)
def test_a_container_that_has_ended_comes_back_only_if_something_restarts_it(spec, code, may):
    ended = f"{{containerStatuses: [{{name: c, state: {{terminated: {{exitCode: {code}}}}}}}]}}"
    found = told("{containerStatuses: [{name: c, state: {running: {}}}]}", ended, spec)
    refused = [
        "status.containerStatuses[0].state: Forbidden: "
        "may not be transitioned to non-terminated state"
    ]
    assert found == ([] if may else refused)


def resized(after: str, before: str) -> list[str]:
    return texts(check_resize(pod(after), pod(before)))


def asking(requests: str, policy: str = "") -> str:
    return f"{{c: {{resources: {{requests: {{{requests}}}}}, {policy}}}}}"


def test_resizes_change_cpu_and_memory_and_take_nothing_away():
    was = asking("cpu: 1")
    assert resized(asking("cpu: 2, memory: 1"), was) == []
    assert resized("{}", was) == [
        "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"
    ]
    mutable = "spec: Forbidden: only cpu and memory resources are mutable"
    assert resized(asking("cpu: 1, ephemeral-storage: 1"), was) == [mutable]
    policy = "resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]"
    assert resized(asking("cpu: 1", policy), was) == [mutable]
    assert resized("{c: {name: d}}", "{}") == [
        "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"
    ]
    assert resized("{os: {name: windows}}", "{os: {name: windows}}") == [
        ": Forbidden: windows pods cannot be resized"
    ]


def added(containers: str, before: str = "[]") -> list[str]:
    new, old = (pod(f"{{ephemeralContainers: {text}}}") for text in (containers, before))
    return texts(check_ephemeral_containers(new, old))


def test_ephemeral_containers_are_checked_when_they_come():
    assert added("[{name: d, image: x, targetContainerName: c}]") == []
    place = "spec.ephemeralContainers[0]"
    assert added("[{name: c, image: x}]") == [f'{place}.name: Duplicate value: "c"']
    assert added("[{name: d}]") == [f"{place}.image: Required value"]
    assert added("[{name: d, image: x, targetContainerName: e}]") == [
        f'{place}.targetContainerName: Not found: "e"'
    ]
    assert added("[{name: d, image: x, ports: [{containerPort: 1}]}]") == [
        f"{place}.ports: Forbidden: cannot be set for an Ephemeral Container"
    ]
    assert added("[{name: d, image: y}]", "[{name: d, image: x}]") == [
        "spec.ephemeralContainers: Forbidden: "
        'existing ephemeral containers "d" may not be changed\n'
    ]
