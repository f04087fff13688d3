"""Rules of the other kinds: one bad object for each, with the words users look for."""

import pytest

from kubarium.api.catalog import Catalog, Kind
from kubarium.api.decode import conform
from kubarium.api.defaulting import default
from kubarium.api.manifests import decode_yaml
from kubarium.api.resource import copy_document
from kubarium.api.validation import validate_create, validate_status_update, validate_update
from kubarium.api.validation.jobs import cron_complaint, parse_indexes

CATALOG = Catalog.builtin()
TEMPLATE = "template: {spec: {restartPolicy: Never, containers: [{name: c, image: x}]}}"


def kind_of(name: str) -> Kind:
    found = [k for k in CATALOG.kinds() if k.resource.kind == name and k.is_storage_version]
    return found[0]


def build(name: str, text: str) -> dict:
    kind = kind_of(name)
    document = decode_yaml(text)[0]
    metadata = document.setdefault("metadata", {})
    metadata.setdefault("name", "x")
    if kind.namespaced:
        metadata.setdefault("namespace", "default")
    assert conform(kind, document) == []
    default(kind, document)
    return document


def complaints(name: str, text: str) -> list[str]:
    return [str(error) for error in validate_create(kind_of(name), build(name, text))]


def update_complaints(name: str, old: str, new: str) -> list[str]:
    return [str(e) for e in validate_update(kind_of(name), build(name, new), build(name, old))]


REFERENCE = "workloadRef: {workloadName: w, templateName: t}"


def templates(levels: int, mode: str = "", inner: str = "") -> str:
    """A Workload of nested templates; ``mode`` is the composites', ``inner`` the leaf's."""
    text = f"{{name: leaf, schedulingPolicy: {{gang: {{minCount: 1}}}}{inner}}}"
    field = "podGroupTemplates"
    for level in range(levels - 1):
        policy = "schedulingPolicy: {gang: {minGroupCount: 1}}"
        text = f"{{name: level-{level}, {policy}{mode}, {field}: [{text}]}}"
        field = "compositePodGroupTemplates"
    return f"{{spec: {{{field}: [{text}]}}}}"


def job(more: str) -> str:
    pod = "{restartPolicy: Never, containers: [{name: c, image: i}]}"
    return f"{{spec: {{{more}, template: {{spec: {pod}}}}}}}"


ALL = ", disruptionMode: {all: {}}"
GOOD = [
    ("Namespace", "{}"),
    ("ConfigMap", "{data: {a.txt: b}}"),
    ("Secret", "{data: {a: YQ==}}"),
    ("Service", "{spec: {ports: [{port: 80}]}}"),
    ("Service", "{spec: {clusterIP: None, selector: {a: b}}}"),
    ("Service", "{spec: {type: ExternalName, externalName: example.com}}"),
    ("Job", f"spec: {{{TEMPLATE}}}"),
    ("Job", f"spec: {{completionMode: Indexed, completions: 3, {TEMPLATE}}}"),
    ("CronJob", f"spec: {{schedule: '*/5 * * * *', jobTemplate: {{spec: {{{TEMPLATE}}}}}}}"),
    ("PriorityClass", "{value: 1000}"),
    ("PriorityClass", "{metadata: {name: system-node-critical}, value: 2000001000}"),
    ("Lease", "{spec: {leaseDurationSeconds: 40}}"),
    ("Role", "{rules: [{verbs: [get], apiGroups: [''], resources: [pods]}]}"),
    ("ClusterRole", "{rules: [{verbs: [get], nonResourceURLs: [/healthz]}]}"),
    ("RoleBinding", "{roleRef: {kind: Role, name: r}, subjects: [{kind: User, name: u}]}"),
    ("PodGroup", "{spec: {schedulingPolicy: {gang: {minCount: 3}}}}"),
    ("PodGroup", "{spec: {schedulingPolicy: {basic: {}}}}"),
    (
        "PodGroup",
        f"{{spec: {{parentCompositePodGroupName: p, {REFERENCE}, "
        "schedulingPolicy: {basic: {}}}}",
    ),
    (
        "CompositePodGroup",
        f"{{spec: {{{REFERENCE}, schedulingPolicy: {{gang: {{minGroupCount: 2}}}}}}}}",
    ),
    ("Workload", templates(4)),
    (
        "Workload",
        "{spec: {podGroupTemplates: [{name: a, schedulingPolicy: {gang: {minCount: 2}}}]}}",
    ),
    (
        "ResourceClaim",
        "{spec: {devices: {requests: [{name: g, exactly: {deviceClassName: c, "
        "selectors: [{cel: {expression: 'device.driver == \"d\"'}}]}}], "
        "constraints: [{requests: [g], matchAttribute: a.b/c}]}}}",
    ),
    (
        "ResourceSlice",
        "{spec: {driver: d.example.com, nodeName: n, pool: {name: n, resourceSliceCount: 1}, "
        "devices: [{name: gpu-0, attributes: {index: {int: 0}}, capacity: {m: {value: 1Gi}}}]}}",
    ),
    ("DeviceClass", "{spec: {extendedResourceName: example.com/gpu}}"),
    ("PodDisruptionBudget", "{spec: {minAvailable: 50%, selector: {matchLabels: {a: b}}}}"),
    ("NetworkPolicy", "{spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}}"),
    ("EndpointSlice", "{addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}]}"),
    (
        "PersistentVolumeClaim",
        "{spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}",
    ),
]


@pytest.mark.parametrize(("kind", "text"), GOOD, ids=lambda value: str(value)[:30])
def test_good_objects_pass_and_may_be_written_again(kind, text):
    assert complaints(kind, text) == []
    assert update_complaints(kind, text, text) == []


BAD = [
    ("Namespace", "{metadata: {name: a.b}}", 'metadata.name: Invalid value: "a.b"'),
    ("Service", "{metadata: {name: 1a}, spec: {ports: [{port: 1}]}}", "a DNS-1035 label"),
    ("Service", "{spec: {}}", "spec.ports: Required value"),
    ("Service", "{spec: {type: X, ports: [{port: 1}]}}", "spec.type: Unsupported value"),
    ("Service", "{spec: {ports: [{port: 1}, {port: 2, name: b}]}}", "spec.ports[0].name: Required"),
    ("ConfigMap", "{data: {'a b': c}}", "data[a b]: Invalid value"),
    ("Secret", "{type: kubernetes.io/tls}", "data[tls.crt]: Required value"),
    (
        "Deployment",
        "spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, "
        "spec: {containers: [{name: c, image: x}]}}}",
        "`selector` does not match template `labels`",
    ),
    ("Deployment", f"spec: {{{TEMPLATE}}}", "spec.selector: Required value"),
    (
        "Job",
        "spec: {template: {spec: {containers: [{name: c, image: x}]}}}",
        'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"',
    ),
    (
        "Job",
        f"spec: {{completionMode: Indexed, parallelism: 2, {TEMPLATE}}}",
        "spec.completions: Required value: when completion mode is Indexed",
    ),
    ("Job", f"spec: {{maxFailedIndexes: 1, {TEMPLATE}}}", "spec.backoffLimitPerIndex: Required"),
    (
        "Job",
        f"spec: {{{TEMPLATE}, podFailurePolicy: {{rules: [{{action: FailJob, "
        "onExitCodes: {operator: In, values: [3, 0]}}]}}",
        "must not be 0 for the In operator",
    ),
    (
        "Job",
        f"spec: {{{TEMPLATE}, successPolicy: {{rules: [{{succeededCount: 1}}]}}}}",
        "requires indexed completion mode",
    ),
    ("Job", f"spec: {{managedBy: me, {TEMPLATE}}}", "must be a domain-prefixed path"),
    (
        "CronJob",
        f"spec: {{schedule: '61 * * * *', jobTemplate: {{spec: {{{TEMPLATE}}}}}}}",
        "end of range (61) above maximum (59): 61",
    ),
    ("PriorityClass", "{value: 1000000001}", "maximum allowed value of a user defined priority"),
    ("PriorityClass", "{metadata: {name: system-x}}", "reserved for system use only"),
    ("Role", "{rules: [{apiGroups: [''], resources: [pods]}]}", "rules[0].verbs: Required value"),
    ("RoleBinding", "{roleRef: {kind: Rule, name: r}}", "roleRef.kind: Unsupported value"),
    ("PodGroup", "{spec: {schedulingPolicy: {}}}", "must specify one of: `basic`, `gang`"),
    (
        "PodGroup",
        "{spec: {schedulingPolicy: {gang: {minCount: 0}}}}",
        "spec.schedulingPolicy.gang.minCount: Required value",
    ),
    (
        "PodGroup",
        "{spec: {schedulingPolicy: {gang: {minCount: -1}}}}",
        "gang.minCount: Invalid value: -1: must be greater than or equal to 1",
    ),
    (
        "DeviceTaintRule",
        "{spec: {taint: {effect: None}}}",
        'spec.taint.key: Invalid value: "": name part must be non-empty',
    ),
    (
        "ResourceClaim",
        "{spec: {devices: {requests: [{name: g, firstAvailable: [{name: a, deviceClassName: c},"
        " {name: a, deviceClassName: c}]}]}}}",
        "spec.devices.requests[0].firstAvailable[1]: Duplicate value: {",
    ),
    (
        "ResourcePoolStatusRequest",
        "{spec: {driver: d, limit: 1001}}",
        "spec.limit: Invalid value: 1001: must be less than or equal to 1000",
    ),
    ("Workload", "{spec: {}}", 'spec: Invalid value: "": must specify one of: `podGroupTemplates`'),
    ("Workload", templates(5), "the tree of templates must not have more than 4 levels"),
    (
        "Workload",
        templates(2, ALL),
        'podGroupTemplates[0].disruptionMode: Invalid value: "single": must be `all` when',
    ),
    (
        "Workload",
        "{spec: {compositePodGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}, "
        "podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}]}]}}",
        'spec.compositePodGroupTemplates[0].podGroupTemplates[0].name: Duplicate value: "a"',
    ),
    (
        "Workload",
        "{spec: {compositePodGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}]}}",
        "at least one of `podGroupTemplates` or `compositePodGroupTemplates` must be set",
    ),
    (
        "CompositePodGroup",
        f"{{spec: {{{REFERENCE}, schedulingPolicy: {{gang: {{minGroupCount: 0}}}}}}}}",
        "spec.schedulingPolicy.gang.minGroupCount: Required value",
    ),
    (
        "PodGroup",
        "{spec: {parentCompositePodGroupName: p, schedulingPolicy: {basic: {}}}}",
        "spec.workloadRef: Required value: must be set when the group has a parent",
    ),
    (
        "PodGroup",
        "{spec: {schedulingPolicy: {gang: {minCount: 1}}, priority: 2000000000}}",
        "spec.priority: Invalid value: 2000000000: must be less than or equal to 1000000000",
    ),
    (
        "PodGroup",
        "{spec: {schedulingPolicy: {gang: {minCount: 1}}, preemptionPolicy: Sometimes}}",
        "spec.preemptionPolicy: Unsupported value",
    ),
    (
        "ResourceClaim",
        "{spec: {devices: {requests: [{name: g, exactly: {deviceClassName: c, "
        "selectors: [{cel: {expression: 'device.x =='}}]}}]}}}",
        "spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value",
    ),
    (
        "ResourceClaim",
        "{spec: {devices: {requests: [{name: g, exactly: {deviceClassName: c, count: -1}}]}}}",
        "must be greater than zero",
    ),
    ("ResourceClaim", "{spec: {devices: {requests: [{name: g}]}}}", "is required"),
    (
        "ResourceSlice",
        "{spec: {driver: d, pool: {name: p}, devices: [{name: a}, {name: a}]}}",
        'spec.devices[1]: Duplicate value: "a"',
    ),
    ("PodDisruptionBudget", "{spec: {unhealthyPodEvictionPolicy: ''}}", 'Unsupported value: ""'),
    ("PriorityClass", "{value: 1, preemptionPolicy: ''}", "preemptionPolicy: Required value"),
    ("Job", job("podReplacementPolicy: ''"), 'podReplacementPolicy: Unsupported value: ""'),
    ("Job", job("completionMode: ''"), 'completionMode: Unsupported value: ""'),
    ("Job", job("managedBy: ''"), "spec.managedBy: Required value"),
    (
        "Job",
        job("successPolicy: {}, completionMode: Indexed, completions: 1"),
        "at least one rules",
    ),
    (
        "Job",
        job("podFailurePolicy: {rules: [{onExitCodes: {operator: In}}]}"),
        'rules[0].action: Required value: valid values: ["Count" "FailIndex" "FailJob" "Ignore"]',
    ),
    (
        "Job",
        "{spec: {template: {metadata: {labels: {a b: c}}, spec: {restartPolicy: Never}}}}",
        'spec.template.labels: Invalid value: "a b"',
    ),
    ("DeviceTaintRule", "{}", "spec.taint.effect: Required value"),
    ("PodGroup", "{}", "spec.schedulingPolicy: Invalid value"),
    ("PodDisruptionBudget", "{spec: {minAvailable: 1, maxUnavailable: 1}}", "cannot be both set"),
    ("PersistentVolumeClaim", "{spec: {}}", "spec.accessModes: Required value"),
    ("EndpointSlice", "{addressType: IPv4, endpoints: [{addresses: ['::1']}]}", "must be an IPv4"),
]


@pytest.mark.parametrize(("kind", "text", "words"), BAD, ids=lambda value: str(value)[:30])
def test_bad_objects_are_refused_in_upstreams_words(kind, text, words):
    found = complaints(kind, text)
    assert any(words in complaint for complaint in found), found


IMMUTABLE = [
    ("PriorityClass", "{value: 1}", "{value: 2}", "may not be changed in an update."),
    (
        "Service",
        "{spec: {clusterIP: 10.0.0.1, ports: [{port: 1}]}}",
        "{spec: {clusterIP: 10.0.0.2, ports: [{port: 1}]}}",
        "may not change once set",
    ),
    (
        "ConfigMap",
        "{immutable: true, data: {a: b}}",
        "{immutable: true, data: {a: c}}",
        "field is immutable when `immutable` is set",
    ),
    (
        "RoleBinding",
        "{roleRef: {kind: Role, name: a}}",
        "{roleRef: {kind: Role, name: b}}",
        "cannot change roleRef",
    ),
    (
        "PodGroup",
        "{spec: {schedulingPolicy: {gang: {minCount: 1}}, priority: 1}}",
        "{spec: {schedulingPolicy: {gang: {minCount: 1}}, priority: 2}}",
        "spec.priority: Invalid value: 2: field is immutable",
    ),
    (
        "ResourceClaim",
        "{spec: {devices: {requests: [{name: a, exactly: {deviceClassName: c}}]}}}",
        "{spec: {devices: {requests: [{name: b, exactly: {deviceClassName: c}}]}}}",
        "field is immutable",
    ),
    (
        "Job",
        f"spec: {{completions: 1, {TEMPLATE}}}",
        f"spec: {{completions: 2, {TEMPLATE}}}",
        "spec.completions: Invalid value: 2: field is immutable",
    ),
]


@pytest.mark.parametrize(("kind", "old", "new", "words"), IMMUTABLE, ids=lambda v: str(v)[:25])
def test_immutable_fields_stay(kind, old, new, words):
    found = update_complaints(kind, old, new)
    assert any(words in complaint for complaint in found), found


def test_a_gangs_size_may_change():
    text = "{spec: {schedulingPolicy: {gang: {minCount: %d}}}}"
    assert update_complaints("PodGroup", text % 1, text % 2) == []
    nested = templates(3).replace("minCount: 1", "minCount: %d")
    assert update_complaints("Workload", nested % 1, nested % 2) == []


def test_the_templates_of_a_composite_stay():
    found = update_complaints("Workload", templates(3), templates(3, ALL, ALL))
    assert len(found) == 3
    assert all("field is immutable" in complaint for complaint in found)
    added = templates(2).replace("]}]}", "]}, {name: b, schedulingPolicy: {basic: {}}}]}")
    assert update_complaints("Workload", templates(2), added)


# --- Jobs ----------------------------------------------------------------------------------------


def test_an_elastic_job_grows_in_tandem_only():
    text = f"spec: {{completionMode: Indexed, completions: %d, parallelism: %d, {TEMPLATE}}}"
    assert update_complaints("Job", text % (2, 2), text % (3, 3)) == []
    found = update_complaints("Job", text % (2, 2), text % (3, 2))
    assert found == [
        "spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism"
    ]
    # Only what it becomes counts: a Job whose parallelism was changed alone can be made one again.
    assert update_complaints("Job", text % (4, 5), text % (1, 1)) == []


def suspended_job() -> dict:
    return build("Job", f"spec: {{suspend: true, {TEMPLATE}}}")


def template_change(job: dict, **spec) -> dict:
    new = copy_document(job)
    new["spec"]["template"]["spec"].update(spec)
    return new


def test_a_suspended_job_that_never_started_may_be_placed_elsewhere():
    job = suspended_job()
    kind = kind_of("Job")
    assert validate_update(kind, template_change(job, nodeSelector={"a": "b"}), job) == []
    assert validate_update(kind, template_change(job, hostNetwork=True), job) != []


def test_a_running_jobs_template_is_frozen():
    job = build("Job", f"spec: {{{TEMPLATE}}}")
    errors = validate_update(kind_of("Job"), template_change(job, nodeSelector={"a": "b"}), job)
    assert [error.path for error in errors] == ["spec.template"]


def test_a_finished_job_stays_finished():
    done = suspended_job() | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    undone = copy_document(done) | {"status": {}}
    errors = validate_status_update(kind_of("Job"), undone, done)
    assert "cannot disable the terminal Complete=True condition" in str(errors[0])


@pytest.mark.parametrize(("text", "count"), [("", 0), ("0", 1), ("1,3-5", 4), ("0-9", 10)])
def test_index_sets_are_counted(text, count):
    assert parse_indexes(text, 10) == count


@pytest.mark.parametrize("text", ["a", "3-1", "1,1", "10", "1-", "-1", "5-5"])
def test_malformed_index_sets_are_refused(text):
    with pytest.raises(ValueError, match="ind"):
        parse_indexes(text, 10)


@pytest.mark.parametrize("text", ["* * * * *", "@daily", "0 9-17/2 1,15 jan-dec mon-fri"])
def test_good_schedules_pass(text):
    assert cron_complaint(text) == ""


@pytest.mark.parametrize("text", ["", "* * * *", "a * * * *", "*/0 * * * *", "5-1 * * * *", "@x"])
def test_bad_schedules_are_explained(text):
    assert cron_complaint(text) != ""


def test_a_stateful_sets_pods_may_mount_its_claim_templates():
    text = """
spec:
  serviceName: x
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec:
      containers:
      - {name: c, image: x, volumeMounts: [{name: %s, mountPath: /data}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"""
    assert complaints("StatefulSet", text % "data") == []
    [problem] = complaints("StatefulSet", text % "other")
    assert 'Not found: "other"' in problem


def test_who_forbids_preemption_for_resizes_is_a_set_of_at_most_twenty_label_keys():
    def of(owners: str) -> list[str]:
        return complaints(
            "Node", f"{{spec: {{podPreemptionPolicy: {{disableResizePreemption: [{owners}]}}}}}}"
        )

    field = "spec.podPreemptionPolicy.disableResizePreemption"
    assert of("example.com/vpa, example.com/autoscaler") == []
    assert [c.split(": ")[:2] for c in of("'a b'")] == [[f"{field}[0]", "Invalid value"]]
    assert of("a, a") == [f'{field}[1]: Duplicate value: "a"']
    many = of(", ".join(f"owner-{i}" for i in range(21)))
    assert many == [f"{field}: Too many: 21: must have at most 20 items"]


def job_with(status: dict, mode="Indexed") -> dict:
    text = f"spec: {{completionMode: {mode}, completions: 4, parallelism: 4, {TEMPLATE}}}"
    return build("Job", text) | {"status": status}


def true(*types):
    return [{"type": type_, "status": "True"} for type_ in types]


EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"
DONE = {
    "startTime": EARLY,
    "completionTime": LATE,
    "conditions": true("SuccessCriteriaMet", "Complete"),
}
LOST = {"startTime": EARLY, "conditions": true("FailureTarget", "Failed")}
STATUSES = [
    ({}, DONE, ""),
    ({}, LOST, ""),
    ({}, {"completedIndexes": "0,2-3", "failedIndexes": "1"}, ""),
    ({"succeeded": 4}, {"succeeded": 2}, ""),
    ({}, DONE | {"active": 1}, "status.active: Invalid value: 1: active>0"),
    ({}, LOST | {"terminating": 2}, "status.terminating: Invalid value: 2: terminating>0"),
    ({}, DONE | {"uncountedTerminatedPods": {"failed": ["u"]}}, "must be empty for finished job"),
    ({}, DONE | {"conditions": true("Complete")}, "without the SuccessCriteriaMet=true"),
    ({}, LOST | {"conditions": true("Failed")}, "without the FailureTarget=true"),
    ({}, DONE | {"conditions": true("SuccessCriteriaMet", "Complete", "FailureTarget")},
     "cannot set Complete=True and FailureTarget=true"),
    ({}, {"conditions": DONE["conditions"], "completionTime": LATE},
     "status.startTime: Required value"),
    ({}, {"conditions": DONE["conditions"], "startTime": EARLY},
     "status.completionTime: Required value"),
    ({}, LOST | {"completionTime": LATE}, "when there is no Complete=True"),
    ({}, DONE | {"startTime": LATE, "completionTime": EARLY}, "equal to or after `startTime`"),
    ({}, {"failed": -1}, "status.failed: Invalid value: -1: must be greater than or equal to 0"),
    ({}, {"completedIndexes": "0-1", "failedIndexes": "1"}, "overlap at index: 1"),
    ({}, {"uncountedTerminatedPods": {"failed": ["u", "u"]}}, "Duplicate value: \"u\""),
    ({}, {"uncountedTerminatedPods": {"succeeded": [""]}}, "succeeded[0]: Invalid value: \"\""),
    ({"failed": 3}, {"failed": 2}, "cannot decrease the failed counter"),
    ({}, {"completedIndexes": "3-1"}, "status.completedIndexes: Invalid value: \"3-1\""),
    ({}, {"failedIndexes": "4"}, "error parsing failedIndexes: too large index"),
    ({"startTime": EARLY}, {"startTime": LATE}, "for an unsuspended job"),
    ({"startTime": EARLY}, {}, "for an unsuspended job"),
    ({"startTime": EARLY, "conditions": true("Suspended")}, {"startTime": LATE}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "said"), STATUSES)
def test_statuses_of_jobs(before, after, said):
    errors = validate_status_update(kind_of("Job"), job_with(after), job_with(before))
    found = " ".join(map(str, errors))
    assert said in found if said else found == ""


def test_a_job_without_indexes_has_none_and_loses_no_successes():
    old, new = job_with({"succeeded": 2}, "NonIndexed"), job_with({"succeeded": 1}, "NonIndexed")
    [error] = validate_status_update(kind_of("Job"), new, old)
    assert "cannot decrease the succeeded counter" in str(error)
    [error] = validate_status_update(
        kind_of("Job"),
        job_with({"completedIndexes": "1"}, "NonIndexed"),
        job_with({}, "NonIndexed"),
    )
    assert "when non-indexed completion mode" in str(error)


@pytest.mark.parametrize(
    ("status", "allowed"),
    [
        ({"startTime": EARLY}, False),
        ({"startTime": EARLY, "conditions": true("Suspended"), "active": 1}, False),
        ({"startTime": EARLY, "conditions": true("Suspended")}, True),
        ({}, True),
    ],
)
def test_a_suspended_job_may_ask_for_other_resources_once_its_pods_are_gone(status, allowed):
    job = suspended_job() | {"status": status}
    new = copy_document(job)
    resources = {"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}
    new["spec"]["template"]["spec"]["containers"][0]["resources"] = resources
    assert (validate_update(kind_of("Job"), new, job) == []) is allowed
    new["spec"]["template"]["spec"]["containers"][0]["resources"] = {"claims": [{"name": "c"}]}
    assert validate_update(kind_of("Job"), new, job) != []
