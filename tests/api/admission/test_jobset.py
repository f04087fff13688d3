import pytest

from kubarium.api.admission import jobset as admission
from kubarium.api.resource import copy_document


def document(**spec):
    doc = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "train"},
        "spec": {"replicatedJobs": [entry("leader"), entry("workers", replicas=2)], **spec},
    }
    admission.default(doc)
    return doc


def entry(name, replicas=1, completions=4, **rest):
    return {
        "name": name,
        "replicas": replicas,
        "template": {
            "spec": {
                "parallelism": completions,
                "completions": completions,
                "template": {"spec": {"containers": [{"name": "main", "image": "busybox"}]}},
            }
        },
        **rest,
    }


def complaints(doc, old=None):
    return [str(error) for error in admission.validate(doc, old)]


def test_defaults_are_the_webhooks():
    doc = document(failurePolicy={"rules": [{"action": "FailJobSet"}, {"action": "FailJobSet"}]})
    spec = doc["spec"]
    assert spec["successPolicy"] == {"operator": "All"}
    assert spec["startupPolicy"] == {"startupPolicyOrder": "AnyOrder"}
    assert spec["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}
    job = spec["replicatedJobs"][0]["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["template"]["spec"]["restartPolicy"] == "OnFailure"
    names = [rule["name"] for rule in spec["failurePolicy"]["rules"]]
    assert names == ["failurePolicyRule0", "failurePolicyRule1"]
    assert complaints(doc) == []


def test_defaulting_twice_changes_nothing():
    doc = document(failurePolicy={"rules": [{"action": "FailJobSet"}]})
    again = copy_document(doc)
    admission.default(again)
    assert again == doc


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"spec": {}},
        {"spec": {"replicatedJobs": "x"}},
        {"spec": {"replicatedJobs": [None, 3, {"template": "x"}, {"template": {"spec": []}}]}},
        {"spec": {"failurePolicy": [], "volumeClaimPolicies": {}}},
    ],
)
def test_defaulting_leaves_malformed_documents_to_the_schema(broken):
    admission.default(broken)


def with_entry(**changes):
    def change(doc):
        doc["spec"]["replicatedJobs"][1].update(changes)

    return change


def with_spec(**changes):
    def change(doc):
        doc["spec"].update(changes)

    return change


def with_name(name):
    def change(doc):
        doc["metadata"]["name"] = name

    return change


@pytest.mark.parametrize(
    ("change", "path", "text"),
    [
        (with_name("x" * 60), "spec.replicatedJobs[0].name", "job names generated for this JobSet"),
        (with_name("x" * 47), "spec.replicatedJobs[0].name", "pod names generated for this JobSet"),
        (with_name("1abc"), "spec.replicatedJobs[0].name", "start with an alphabetic"),
        (with_entry(groupName="-"), "spec.replicatedJobs[1].groupName", "a DNS-1035 label"),
        (
            with_entry(replicas=2**30),
            "spec.replicatedJobs[1].replicas",
            "must not exceed 2147483647",
        ),
        (
            with_entry(dependsOn=[{"name": "nobody", "status": "Ready"}]),
            "spec.replicatedJobs[1].dependsOn[0].name",
            "can only depend on one listed before it: leader",
        ),
        (
            with_spec(successPolicy={"operator": "All", "targetReplicatedJobs": ["nobody"]}),
            "spec.successPolicy.targetReplicatedJobs[0]",
            "does not appear in spec.replicatedJobs: leader, workers",
        ),
        (
            with_spec(network={"subdomain": "UPPER"}),
            "spec.network.subdomain",
            "RFC 1123 subdomain",
        ),
        (with_spec(managedBy="nodomain"), "spec.managedBy", "domain-prefixed path"),
        (
            with_spec(failurePolicy={"rules": [{"name": "", "action": "FailJobSet"}]}),
            "spec.failurePolicy.rules[0].name",
            "must be 1 to 128 characters long",
        ),
        (
            with_spec(failurePolicy={"rules": [{"name": "9", "action": "FailJobSet"}]}),
            "spec.failurePolicy.rules[0].name",
            "must start with a letter",
        ),
        (
            with_spec(
                failurePolicy={
                    "rules": [
                        {"name": "a", "action": "FailJobSet"},
                        {"name": "a", "action": "FailJobSet"},
                    ]
                }
            ),
            "spec.failurePolicy.rules[1].name",
            "Duplicate value",
        ),
        (
            with_spec(
                failurePolicy={
                    "rules": [
                        {"name": "a", "action": "FailJobSet", "onJobFailureReasons": ["Boredom"]}
                    ]
                }
            ),
            "spec.failurePolicy.rules[0].onJobFailureReasons[0]",
            "is not a recognized job failure reason",
        ),
        (
            with_spec(
                failurePolicy={
                    "rules": [
                        {"name": "a", "action": "FailJobSet", "onJobFailureMessagePatterns": ["("]}
                    ]
                }
            ),
            "spec.failurePolicy.rules[0].onJobFailureMessagePatterns[0]",
            "is not a regular expression",
        ),
        (
            with_spec(failurePolicy={"restartStrategy": "InPlaceRestart"}),
            "spec.replicatedJobs[1].template.spec.backoffLimit",
            "must be 2147483647 with restartStrategy InPlaceRestart",
        ),
        (
            with_spec(failurePolicy={"restartStrategy": "InPlaceRestart"}),
            "spec.replicatedJobs[0].template.spec.podReplacementPolicy",
            "must be Failed with restartStrategy InPlaceRestart",
        ),
        (
            with_spec(coordinator={"replicatedJob": "nobody"}),
            "spec.coordinator.replicatedJob",
            "does not appear",
        ),
        (
            with_spec(coordinator={"replicatedJob": "leader", "jobIndex": 1}),
            "spec.coordinator.jobIndex",
            "must be at least 0 and below 1",
        ),
        (
            with_spec(coordinator={"replicatedJob": "leader", "podIndex": 4}),
            "spec.coordinator.podIndex",
            "must be at least 0 and below 4",
        ),
        (
            with_spec(
                volumeClaimPolicies=[{"templates": [{"metadata": {"name": "data"}, "spec": {}}]}]
            ),
            "spec.volumeClaimPolicies[0].templates[0].metadata.name",
            "no container has a volumeMount of that name",
        ),
    ],
)
def test_what_the_webhook_refuses(change, path, text):
    doc = document()
    change(doc)
    found = complaints(doc)
    assert any(item.startswith(f"{path}: ") and text in item for item in found), found


def test_the_first_replicated_job_depends_on_nobody():
    doc = document()
    doc["spec"]["replicatedJobs"][0]["dependsOn"] = [{"name": "workers", "status": "Ready"}]
    assert complaints(doc) == [
        "spec.replicatedJobs[0].dependsOn: Forbidden: can't be set for the first ReplicatedJob"
    ]


def pod_template(doc):
    return doc["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]


def test_replicated_jobs_cannot_be_changed():
    old = document()
    new = copy_document(old)
    pod_template(new)["spec"]["nodeSelector"] = {"a": "b"}
    [error] = complaints(new, old)
    assert error.startswith("spec.replicatedJobs: Invalid value: ")
    assert error.endswith(
        ": field is immutable: template.spec.template.spec.nodeSelector was changed; while the "
        "JobSet is suspended the pod template's labels, annotations, nodeSelector, tolerations, "
        "schedulingGates may be"
    )


@pytest.mark.parametrize("suspended", ["old", "new"])
def test_what_a_queue_writes_may_change_while_suspended(suspended):
    old = document(suspend=suspended == "old")
    new = copy_document(old)
    new["spec"]["suspend"] = suspended == "new"
    template = pod_template(new)
    template["metadata"] = {"labels": {"a": "b"}, "annotations": {"c": "d"}}
    template["spec"] |= {
        "nodeSelector": {"e": "f"},
        "tolerations": [{"operator": "Exists"}],
        "schedulingGates": [{"name": "g"}],
    }
    assert complaints(new, old) == []
    template["spec"]["containers"][0]["image"] = "other"
    assert len(complaints(new, old)) == 1


def test_managed_by_cannot_be_changed():
    old = document()
    new = copy_document(old)
    new["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    assert complaints(new, old) == [
        'spec.managedBy: Invalid value: "kueue.x-k8s.io/multikueue": field is immutable'
    ]
