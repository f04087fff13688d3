"""The cases of JobSet's own webhook tests, said anew, through the API server: a row each.

Upstream: ``test/integration/webhook/jobset_webhook_test.go`` and the validation table of
``pkg/webhooks/jobset_webhook_test.go``; ``docs/conformance.md`` counts them.
"""

import pytest

from kubarium.api.kinds import JOB_SETS, PERSISTENT_VOLUME_CLAIMS
from kubarium.api.resource import copy_document
from kubarium.base.errors import ApiError
from tests.control.training.conftest import document, entry, one_and_three

MAX = 2**31 - 1
OK = ""


def bare(**spec):
    """Nothing defaulted: as a user writes it."""
    container = {"name": "main", "image": "busybox"}
    job = {"template": {"spec": {"template": {"spec": {"containers": [container]}}}}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "js"},
        "spec": {"replicatedJobs": [{"name": "a", **job}], **spec},
    }


def job_of(jobset, index=0):
    return jobset["spec"]["replicatedJobs"][index]["template"]["spec"]


def in_place(**changes):
    job = {"backoffLimit": MAX, "podReplacementPolicy": "Failed"} | changes
    made = document(entry("a", job=job), failurePolicy={"restartStrategy": "InPlaceRestart"})
    spec = job_of(made)
    made["spec"]["replicatedJobs"][0]["template"]["spec"] = {
        field: value for field, value in spec.items() if value is not None
    }
    return made


def rules(*given, **spec):
    return one_and_three(failurePolicy={"maxRestarts": 1, "rules": list(given)}, **spec)


def named(name, **rest):
    return {"name": name, "action": "FailJobSet", **rest}


def after(*names, status="Ready"):
    return [{"name": name, "status": status} for name in names]


CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}


def template(name="data", **metadata):
    return {"metadata": {"name": name, **metadata}, "spec": CLAIM}


def claims(*policies, field="containers", mount="data", generated="", **pod):
    container = {"name": "main", "image": "busybox"}
    mounting = {**container, "volumeMounts": [{"name": mount, "mountPath": "/data"}]}
    containers = {"containers": [container], field: [{**mounting, "name": "mounting"}]}
    made = document(entry("a", pod={**containers, **pod}))
    made["spec"]["volumeClaimPolicies"] = list(policies)
    if generated:
        made["metadata"] = {"generateName": generated}
    return made


def one_claim(**retention):
    return claims({"templates": [template()], **retention})


CREATED = [
    # --- accepted
    ("no replicated jobs at all", document(), OK),
    ("no Jobs of a replicated job", document(entry("a", replicas=0)), OK),
    ("pods up to the limit", document(entry("a", replicas=MAX // 10, pods=10)), OK),
    ("a manager with a domain", one_and_three(managedBy="example.com/other"), OK),
    ("no manager", one_and_three(), OK),
    ("dependsOn beside AnyOrder", document(
        entry("a"), entry("b", dependsOn=after("a")),
        startupPolicy={"startupPolicyOrder": "AnyOrder"}), OK),
    ("b and c depend on a", document(
        entry("a"), entry("b", dependsOn=after("a")), entry("c", dependsOn=after("a"))), OK),
    ("b depends on a, c on b", document(
        entry("a"), entry("b", dependsOn=after("a")), entry("c", dependsOn=after("b"))), OK),
    ("c depends on a and b", document(
        entry("a"), entry("b"), entry("c", dependsOn=after("a", "b"))), OK),
    ("a rule's name of letters, digits, commas", rules(named("a_1,b:c_")), OK),
    ("restarts of single jobs", rules(named("r") | {"action": "RestartJob"}), OK),
    ("restarts in place", in_place(), OK),
    ("a claim that a container mounts", one_claim(), OK),
    ("a claim that an init container mounts",
     claims({"templates": [template()]}, field="initContainers"), OK),
    # --- names and sizes
    ("negative replicas", document(entry("a", replicas=-1)),
     "spec.replicatedJobs[0].replicas"),
    ("too many pods", document(entry("a", replicas=2**20, pods=2**12)),
     "replicas times parallelism must not exceed 2147483647"),
    ("a name that makes job names too long", document(entry("a"), name="x" * 62),
     "job names generated for this JobSet will exceed 63"),
    ("a name that makes pod names too long", document(entry("a"), name="x" * 53),
     "pod names generated for this JobSet will exceed 63"),
    ("a generated name that does", document(
        entry("a"), metadata={"generateName": "x" * 60, "name": None}),
     "job names generated for this JobSet will exceed 63"),
    ("a generated name that makes claims' names too long", claims(
        {"templates": [template("d" * 240)]}, mount="d" * 240, generated="x" * 20),
     "the claim's name would be too long"),
    ("a name with another letter", document(entry("a"), name="js.dot"), "a DNS-1035 label"),
    ("a group name that is none", document(entry("a", groupName="1-group")),
     "spec.replicatedJobs[0].groupName"),
    ("a subdomain that is none", one_and_three(network={"subdomain": "Sub_Domain"}),
     "spec.network.subdomain"),
    ("a manager without a domain", one_and_three(managedBy="other"), "domain-prefixed path"),
    ("a manager's name that is too long", one_and_three(managedBy=f"example.com/{'x' * 60}"),
     "spec.managedBy: Too long"),
    # --- policies
    ("success of an unknown replicated job",
     one_and_three(successPolicy={"operator": "All", "targetReplicatedJobs": ["nobody"]}),
     "spec.successPolicy.targetReplicatedJobs[0]"),
    ("an unknown reason", rules(named("r", onJobFailureReasons=["Boredom"])),
     "is not a recognized job failure reason; these are BackoffLimitExceeded"),
    ("a rule of an unknown replicated job", rules(named("r", targetReplicatedJobs=["nobody"])),
     "does not appear in spec.replicatedJobs: a, b"),
    ("a rule's name that is too long", rules(named("r" * 129)), "must be 1 to 128 characters"),
    ("two rules of one name", rules(named("r"), named("r")),
     'spec.failurePolicy.rules[1].name: Duplicate value: "r"'),
    ("a rule's name that starts with a digit", rules(named("1r")), "must start with a letter"),
    ("a rule's name that ends with a comma", rules(named("r,")), "end with a letter"),
    ("an unknown action", rules(named("r") | {"action": "Shrug"}),
     "spec.failurePolicy.rules[0].action: Unsupported value"),
    ("restarts of single jobs, of too many", document(
        entry("a", replicas=1025),
        failurePolicy={"rules": [named("r") | {"action": "RestartJob"}]}),
     "spec.replicatedJobs[0].replicas: Invalid value: 1025: must be at most 1024"),
    ("uncounted restarts of single jobs, of too many", document(
        entry("a", replicas=1025),
        failurePolicy={"rules": [named("r") | {"action": "RestartJobAndIgnoreMaxRestarts"}]}),
     "split it into several replicatedJobs"),
    ("in place, with a back-off limit", in_place(backoffLimit=6),
     "spec.replicatedJobs[0].template.spec.backoffLimit: Invalid value: 6: must be 2147483647"),
    ("in place, without a back-off limit", in_place(backoffLimit=None),
     "backoffLimit: Invalid value: null: must be 2147483647"),
    ("in place, with early replacements", in_place(podReplacementPolicy="TerminatingOrFailed"),
     "podReplacementPolicy: Invalid value: \"TerminatingOrFailed\": must be Failed"),
    ("in place, with more completions than pods", in_place(completions=2),
     "completions: Invalid value: 2: must be set and equal to parallelism, which is 1"),
    ("in place, without completions", in_place(completions=None),
     "completions: Invalid value: null: must be set"),
    ("in place, without parallelism", in_place(parallelism=None), "which is unset"),
    # --- coordinator
    ("a coordinator of an unknown replicated job",
     one_and_three(coordinator={"replicatedJob": "nobody"}), "spec.coordinator.replicatedJob"),
    ("a coordinator of a Job without completions", document(
        entry("a", job={"completions": None, "completionMode": "NonIndexed"}),
        coordinator={"replicatedJob": "a"}),
     "its Job must be Indexed and say how many completions"),
    ("a coordinator's Job that is not there",
     one_and_three(coordinator={"replicatedJob": "b", "jobIndex": 3}),
     "spec.coordinator.jobIndex: Invalid value: 3: must be at least 0 and below 3"),
    ("a coordinator's pod that is not there",
     one_and_three(coordinator={"replicatedJob": "b", "podIndex": 1}),
     "spec.coordinator.podIndex: Invalid value: 1: must be at least 0 and below 1"),
    ("a coordinator's address longer than a label, by the JobSet's name",
     document(entry("a"), name="x" * 35, coordinator={"replicatedJob": "a"}), "spec.coordinator"),
    ("a coordinator's address longer than a label, by the replicated job's name",
     document(entry("a" * 46), coordinator={"replicatedJob": "a" * 46},
              network={"subdomain": "sub-domain"}), "spec.coordinator"),
    ("a coordinator's address longer than a label, by the subdomain",
     one_and_three(coordinator={"replicatedJob": "a"}, network={"subdomain": "s" * 60}),
     "spec.coordinator"),
    # --- order
    ("dependsOn beside InOrder", document(
        entry("a"), entry("b", dependsOn=after("a")),
        startupPolicy={"startupPolicyOrder": "InOrder"}), "mutually exclusive"),
    ("the first depends on another", document(entry("a", dependsOn=after("b")), entry("b")),
     "can't be set for the first ReplicatedJob"),
    ("a dependency's status that is none", document(
        entry("a"), entry("b", dependsOn=after("a", status="Happy"))),
     "spec.replicatedJobs[1].dependsOn[0].status: Unsupported value"),
    ("b depends on the later c", document(
        entry("a"), entry("b", dependsOn=after("c")), entry("c")),
     "can only depend on one listed before it: a"),
    ("b depends on a and the later c", document(
        entry("a"), entry("b", dependsOn=after("c", "a")), entry("c")),
     "spec.replicatedJobs[1].dependsOn[0].name"),
    ("b depends on nobody we know", document(entry("a"), entry("b", dependsOn=after("nobody"))),
     "can only depend on one listed before it: a"),
    # --- claims
    ("a claim with a namespace", claims({"templates": [template(namespace="default")]}),
     "spec.volumeClaimPolicies[0]: Invalid value: \"object\": namespace cannot be set"),
    ("too many policies of claims",
     claims(*[{"templates": [template(f"c{n}")]} for n in range(51)]),
     "must have at most 50 items"),
    ("too many claims of a policy",
     claims({"templates": [template(f"c{n}") for n in range(51)]}), "must have at most 50 items"),
    ("two claims of one name", claims({"templates": [template(), template()]}),
     'templates[1].metadata.name: Duplicate value: "data"'),
    ("a claim's name with a capital", claims({"templates": [template("Data")]}, mount="Data"),
     "a lowercase RFC 1123 subdomain"),
    ("a claim's name that is too long",
     claims({"templates": [template("d" * 252)]}, mount="d" * 252),
     "the claim's name would be too long"),
    ("a claim that nobody mounts", claims({"templates": [template()]}, mount="other"),
     "no container has a volumeMount of that name"),
    ("a claim of a volume's name", claims(
        {"templates": [template()]}, volumes=[{"name": "data", "emptyDir": {}}]),
     "volumes[0].name: Invalid value: \"data\": conflicts with a claim of that name"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("made", "said"), [row[1:] for row in CREATED], ids=[row[0] for row in CREATED]
)
def test_on_creation(refused, made, said):
    answer = refused(made)
    assert said in answer if said else answer == ""


def spec(**fields):
    def change(jobset):
        jobset["spec"] |= fields

    return change


def job(index=0, **fields):
    def change(jobset):
        job_of(jobset, index).update(fields)

    return change


def pod(metadata=None, suspend=None, **fields):
    def change(jobset):
        template = job_of(jobset)["template"]
        template["spec"].update(fields)
        if metadata:
            template["metadata"] = metadata
        if suspend is not None:
            jobset["spec"]["suspend"] = suspend

    return change


def size(parallelism, completions, index=0):
    return job(index, parallelism=parallelism, completions=completions)


def both(*changes):
    def change(jobset):
        for one in changes:
            one(jobset)

    return change


def reordered(jobset):
    jobset["spec"]["replicatedJobs"].reverse()


def renamed(jobset):
    jobset["spec"]["replicatedJobs"][0]["name"] = "other"


def one_more(jobset):
    added = copy_document(jobset["spec"]["replicatedJobs"][0])
    jobset["spec"]["replicatedJobs"].append(added | {"name": "more"})


def label(jobset):
    jobset["metadata"]["labels"] = {"a": "b"}


HELD = one_and_three(suspend=True)
RUNS = one_and_three()
CHAIN = document(entry("a"), entry("b", dependsOn=after("a")), suspend=True)
KUEUE = {
    "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
    "nodeSelector": {"a": "b"},
    "tolerations": [{"operator": "Exists"}],
}
GATES = [{"name": "example.com/gate"}]
PLAIN = document(
    entry("a", pods=2, job={"completionMode": "NonIndexed"}), entry("b", pods=2), name="js"
)

CHANGED = [
    ("suspending", RUNS, spec(suspend=True), OK),
    ("resuming", HELD, spec(suspend=False), OK),
    ("labels of the JobSet", RUNS, label, OK),
    ("a node selector while suspended", HELD, pod(nodeSelector={"a": "b"}), OK),
    ("a node selector while it runs", RUNS, pod(nodeSelector={"a": "b"}),
     "template.spec.template.spec.nodeSelector was changed"),
    ("what a queue writes while suspended", HELD, pod(**KUEUE), OK),
    ("what a queue writes while it is being suspended", RUNS, pod(**KUEUE, suspend=True), OK),
    ("what a queue writes while it runs", RUNS, pod(**KUEUE), "spec.replicatedJobs: Invalid value"),
    ("scheduling gates while suspended", HELD, pod(schedulingGates=GATES), OK),
    ("scheduling gates while it runs", RUNS, pod(schedulingGates=GATES),
     "while the JobSet is suspended the pod template's labels"),
    ("an image, even while suspended", HELD, pod(containers=[{"name": "main", "image": "other"}]),
     "field is immutable: template.spec.template.spec.containers was changed"),
    ("the back-off limit", RUNS, job(backoffLimit=1), "template.spec.backoffLimit was changed"),
    ("the number of Jobs", RUNS, lambda js: js["spec"]["replicatedJobs"][1].update(replicas=4),
     "field is immutable: replicas was changed"),
    ("a replicated job's name", HELD, renamed, "create a new JobSet"),
    ("a replicated job more", HELD, one_more, "entries can't be added, removed or reordered"),
    ("the order of replicated jobs", HELD, reordered, "entries can't be added"),
    ("the success policy", RUNS, spec(successPolicy={"operator": "Any"}),
     "spec.successPolicy: Invalid value"),
    ("the failure policy", one_and_three(failurePolicy={"maxRestarts": 1}),
     spec(failurePolicy={"maxRestarts": 2}), "spec.failurePolicy: Invalid value"),
    ("the network", RUNS, spec(network={"enableDNSHostnames": False}), "spec.network"),
    ("the manager", RUNS, spec(managedBy="example.com/other"), "spec.managedBy: Invalid value"),
    ("what a replicated job depends on", CHAIN,
     lambda js: js["spec"]["replicatedJobs"][1]["dependsOn"][0].update(status="Complete"),
     "dependsOn"),
    ("the claims", one_claim(), spec(volumeClaimPolicies=[]), "spec.volumeClaimPolicies"),
    # --- elastic
    ("more pods", RUNS, size(4, 4), OK),
    ("fewer pods", PLAIN, size(1, 1, index=1), OK),
    ("more pods in place", in_place(), size(3, 3), OK),
    ("parallelism and completions apart", RUNS, size(4, 3),
     "completions: Invalid value: 3: must equal parallelism, which is 4: both change together"),
    ("parallelism alone", RUNS, job(parallelism=3),
     "completions: Invalid value: 1: must equal parallelism, which is 3"),
    ("completions taken away", RUNS, lambda js: job_of(js).pop("completions"),
     "completions: Invalid value: null: must equal parallelism"),
    ("of a Job that is not Indexed", PLAIN, size(4, 4), "field is immutable"),
    ("no pod at all", RUNS, size(0, 0), "parallelism: Invalid value: 0: must be at least 1"),
    ("no completion at all", RUNS, size(1, 0),
     "completions: Invalid value: 0: must be at least 1"),
    ("more pods and another image", RUNS,
     both(size(4, 4), pod(containers=[{"name": "main", "image": "other"}])),
     "field is immutable: template.spec.template.spec.containers was changed"),
    ("more pods of one, by name", RUNS, both(size(4, 4), reordered), "entries can't be added"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("made", "change", "said"), [row[1:] for row in CHANGED], ids=[row[0] for row in CHANGED]
)
def test_on_update(refused, made, change, said):
    answer = refused(made, change)
    assert said in answer if said else answer == ""


@pytest.mark.parametrize("ending", ["Completed", "Failed"])
def test_a_set_that_is_over_keeps_its_size(world_run, ending):
    async def story(world):
        await world.install("jobset.x-k8s.io")
        await world.start()
        held = await world.create(JOB_SETS, copy_document(RUNS))
        over = {
            "type": ending,
            "status": "True",
            "reason": "R",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        held = await world.client.update(
            JOB_SETS, {**held, "status": {"conditions": [over]}}, "default", subresource="status"
        )
        changed = copy_document(held)
        size(4, 4)(changed)
        with pytest.raises(ApiError, match=f"of a JobSet that is {ending} can't be changed"):
            await world.client.update(JOB_SETS, changed, "default")

    world_run(story)


DEFAULTS = [
    ("completion mode", bare(), lambda s: job_of({"spec": s})["completionMode"], "Indexed"),
    ("restart policy", bare(),
     lambda s: job_of({"spec": s})["template"]["spec"]["restartPolicy"], "OnFailure"),
    ("host names", bare(), lambda s: s["network"]["enableDNSHostnames"], True),
    ("host names kept off", bare(network={"enableDNSHostnames": False}),
     lambda s: s["network"]["enableDNSHostnames"], False),
    ("addresses not ready", bare(), lambda s: s["network"]["publishNotReadyAddresses"], True),
    ("addresses kept to the ready", bare(network={"publishNotReadyAddresses": False}),
     lambda s: s["network"]["publishNotReadyAddresses"], False),
    ("success policy", bare(), lambda s: s["successPolicy"], {"operator": "All"}),
    ("success policy kept", bare(successPolicy={"operator": "Any"}),
     lambda s: s["successPolicy"], {"operator": "Any"}),
    ("startup policy", bare(), lambda s: s["startupPolicy"], {"startupPolicyOrder": "AnyOrder"}),
    ("startup policy kept", bare(startupPolicy={"startupPolicyOrder": "InOrder"}),
     lambda s: s["startupPolicy"], {"startupPolicyOrder": "InOrder"}),
    ("failure policy", bare(failurePolicy={}), lambda s: s["failurePolicy"],
     {"restartStrategy": "Recreate", "maxRestarts": 0}),
    ("rule names", bare(failurePolicy={"rules": [
        {"name": "mine", "action": "FailJobSet"}, {"action": "FailJobSet"}]}),
     lambda s: [rule["name"] for rule in s["failurePolicy"]["rules"]],
     ["mine", "failurePolicyRule1"]),
    ("manager", bare(), lambda s: s.get("managedBy"), None),
    ("manager kept", bare(managedBy="example.com/other"), lambda s: s["managedBy"],
     "example.com/other"),
    ("claims", one_claim(), lambda s: s["volumeClaimPolicies"][0]["retentionPolicy"],
     {"whenDeleted": "Delete"}),
    ("group", bare(), lambda s: s["replicatedJobs"][0]["groupName"], "default"),
    ("replicas", bare(), lambda s: s["replicatedJobs"][0]["replicas"], 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("made", "read", "wanted"), [row[1:] for row in DEFAULTS], ids=[row[0] for row in DEFAULTS]
)
def test_defaults(world_run, made, read, wanted):
    async def story(world):
        await world.install("jobset.x-k8s.io")
        await world.start()
        return read((await world.create(JOB_SETS, copy_document(made)))["spec"])

    found = world_run(story)
    if isinstance(wanted, dict):
        found = {key: found.get(key, 0) for key in wanted}
    assert found == wanted


def test_a_completion_mode_that_is_set_stays(world_run):
    async def story(world):
        await world.install("jobset.x-k8s.io")
        await world.start()
        made = bare()
        job_of(made)["completionMode"] = "NonIndexed"
        job_of(made)["template"]["spec"]["restartPolicy"] = "Never"
        job = job_of(await world.create(JOB_SETS, made))
        assert job["completionMode"] == "NonIndexed"
        assert job["template"]["spec"]["restartPolicy"] == "Never"

    world_run(story)


@pytest.mark.parametrize(
    ("existing", "retention", "said"),
    [
        (CLAIM, "Retain", ""),
        (CLAIM, "Delete", 'whenDeleted: Invalid value: "Delete": must be Retain'),
        (
            CLAIM | {"resources": {"requests": {"storage": "2Gi"}}},
            "Retain",
            "templates[0].spec: Invalid value",
        ),
    ],
    ids=["the same and kept", "the same and not kept", "another"],
)
def test_a_claim_that_is_there_already(world_run, existing, retention, said):
    async def story(world):
        await world.install("jobset.x-k8s.io")
        await world.start()
        held = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": existing}
        await world.create(PERSISTENT_VOLUME_CLAIMS, held | {"metadata": {"name": "data-js"}})
        try:
            await world.create(JOB_SETS, one_claim(retentionPolicy={"whenDeleted": retention}))
        except ApiError as error:
            return error.message
        return ""

    answer = world_run(story)
    assert said in answer if said else answer == ""
