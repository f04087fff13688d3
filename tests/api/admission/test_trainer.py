"""What Trainer's webhooks and plug-ins refuse, case by case."""

import pytest

from kubarium.api.admission import trainer as admission
from kubarium.api.resource import copy_document
from kubarium.cluster import training

RUNTIMES = {doc["metadata"]["name"]: doc for doc in training.runtimes()}


def train_job(runtime="torch-distributed", patches=(), initializer=None, suspend=False, **trainer):
    spec = {
        "runtimeRef": {
            "name": runtime,
            "kind": "ClusterTrainingRuntime",
            "apiGroup": "trainer.kubeflow.org",
        },
        "suspend": suspend,
    }
    if trainer:
        spec["trainer"] = trainer
    if patches:
        spec["runtimePatches"] = list(patches)
    if initializer:
        spec["initializer"] = initializer
    return {"metadata": {"name": "job", "namespace": "default"}, "spec": spec}


def complaints(new, old=None, jobset=None, changes=None):
    runtime = RUNTIMES.get(new["spec"]["runtimeRef"]["name"])
    if runtime is not None and changes:
        runtime = {**runtime, "spec": {**copy_document(runtime["spec"]), **changes}}
    return [str(error) for error in admission.validate(new, old, runtime, jobset)]


def patch(job="node", manager="example.io/team", **pod):
    jobs = [{"name": job, "template": {"spec": {"template": {"spec": pod}}}}]
    return {
        "manager": manager,
        "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}},
    }


def variables(*names):
    return [{"name": name, "value": "x"} for name in names]


def test_every_stock_runtime_is_accepted():
    for runtime in RUNTIMES.values():
        assert admission.validate_runtime(runtime) == []


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_a_plain_trainjob_of_every_runtime_is_accepted(name):
    assert complaints(train_job(name, numNodes=1)) == []


def test_the_runtime_must_be_there():
    [text] = complaints(train_job("missing"))
    assert 'clustertrainingruntimes.trainer.kubeflow.org "missing" not found' in text
    assert "specified clusterTrainingRuntime must be created before the TrainJob" in text


def test_other_kinds_of_runtime_are_not_supported():
    job = train_job()
    job["spec"]["runtimeRef"] |= {"kind": "Recipe"}
    [text] = complaints(job)
    assert "unsupported runtime: Recipe.trainer.kubeflow.org" in text


@pytest.mark.parametrize(
    ("runtime", "name"),
    [
        ("torch-distributed", "PET_NNODES"),
        ("torch-distributed", "PET_MASTER_PORT"),
        ("deepspeed-distributed", "OMPI_MCA_plm_rsh_args"),
        ("xgboost-distributed", "DMLC_TASK_ID"),
    ],
)
def test_variables_of_the_framework_are_reserved(runtime, name):
    [text] = complaints(train_job(runtime, env=variables("FINE", name)))
    assert text.startswith("spec.trainer.env")
    assert name in text


def test_patches_may_name_only_what_is_there():
    assert complaints(train_job(patches=[patch(nodeSelector={"a": "b"})])) == []
    [text] = complaints(train_job(patches=[patch("worker", nodeSelector={"a": "b"})]))
    assert "must not have replicated job that doesn't exist" in text
    [text] = complaints(train_job(patches=[patch(containers=[{"name": "sidecar"}])]))
    assert "must not have container that doesn't exist in the runtime job node" in text
    [text] = complaints(train_job(patches=[patch(initContainers=[{"name": "first"}])]))
    assert "must not have initContainer that doesn't exist in the runtime job node" in text
    container = {"name": "node", "env": variables("A")}
    [text] = complaints(train_job(patches=[patch(containers=[container])]))
    assert "must not have envs for the dataset-initializer, model-initializer, node" in text


def test_managers_have_a_domain():
    [text] = complaints(train_job(patches=[patch(manager="me", nodeSelector={"a": "b"})]))
    assert text.startswith("spec.runtimePatches.manager: Invalid value")


def test_patches_change_only_around_a_suspension():
    old, new = train_job(), train_job(patches=[patch(nodeSelector={"a": "b"})])
    [text] = complaints(new, old)
    assert "can only be modified when the TrainJob is suspended" in text
    assert complaints(new, train_job(suspend=True)) == []
    running = {"status": {"replicatedJobsStatus": [{"name": "node", "active": 1}]}}
    [text] = complaints(new, train_job(suspend=True), running)
    assert "cannot be modified when the JobSet's ReplicatedJob node is still active" in text


def test_initializers_need_a_runtime_that_has_them():
    given = {"dataset": {"storageUri": "hf://a/b"}, "model": {"storageUri": "hf://c/d"}}
    found = complaints(train_job(initializer=given))
    assert ["must have dataset-initializer job" in found[0]] == [True]
    assert "must have model-initializer job" in found[1]
    assert complaints(train_job("torchtune-llama3.2-1b", initializer=given)) == []


def test_an_initializer_that_keeps_nothing_is_refused():
    spec = copy_document(RUNTIMES["torchtune-llama3.2-1b"]["spec"])
    job = spec["template"]["spec"]["replicatedJobs"][0]
    del job["template"]["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    given = {"dataset": {"storageUri": "hf://a/b"}}
    [text] = complaints(
        train_job("torchtune-llama3.2-1b", initializer=given),
        changes={"template": spec["template"]},
    )
    assert "must have volumeMount with name - initializer" in text


def test_mpi_needs_both_launcher_and_nodes_for_more_than_one():
    spec = copy_document(RUNTIMES["deepspeed-distributed"]["spec"])
    template = spec["template"]
    template["spec"]["replicatedJobs"] = template["spec"]["replicatedJobs"][1:]
    job = train_job("deepspeed-distributed", numNodes=2)
    [text] = complaints(job, changes={"template": template})
    assert text.startswith("spec.trainer.numNodes: Invalid value: 2: must have 1 when MPI")


def test_injection_must_have_a_target():
    targets = [{"jobName": "node", "containerNames": ["watcher"]}]
    policy = {"numNodes": 1, "torch": {"envInjection": {"targets": targets}}}
    [text] = complaints(train_job(numNodes=1), changes={"mlPolicy": policy})
    assert 'envInjection target podSet "node" container "watcher" not found' in text


def test_flux_is_refused_with_a_way_out():
    [text] = complaints(train_job(numNodes=1), changes={"mlPolicy": {"flux": {}}})
    assert "use torch, mpi, jax or xgboost" in text


@pytest.mark.parametrize(
    ("runtime", "trainer", "path"),
    [
        ("torchtune-llama3.2-1b", {"numNodes": 2}, "spec.trainer.numNodes"),
        (
            "torchtune-llama3.2-1b",
            {"args": ["output_dir=/tmp"]},
            "spec.trainer.args[0]",
        ),
        (
            "torchtune-qwen2.5-1.5b",
            {"args": ["model.quantize_base=true"]},
            "spec.runtimeRef.name",
        ),
        ("torch-distributed", {}, "spec.runtimeRef.name"),
    ],
)
def test_torchtune_says_what_it_cannot(runtime, trainer, path):
    found = complaints(train_job(runtime, command=["tune", "run"], **trainer))
    assert path in [text.partition(":")[0] for text in found]


# runtimes


def test_a_step_needs_its_container_and_one_replica():
    runtime = copy_document(RUNTIMES["torch-distributed"])
    job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]
    job["replicas"] = 2
    job["template"]["spec"]["template"]["spec"]["containers"][0]["name"] = "main"
    found = [str(error) for error in admission.validate_runtime(runtime)]
    assert "replicas: Invalid value: 2: always must be 1" in found[0]
    assert "must contain the required container for the ancestor: trainer" in found[1]


def test_deprecated_runtimes_are_warned_of():
    runtime = copy_document(RUNTIMES["torch-distributed"])
    assert admission.deprecation_of(runtime, referenced=True) == ""
    runtime["metadata"]["labels"]["trainer.kubeflow.org/support"] = "deprecated"
    text = admission.deprecation_of(runtime, referenced=True)
    assert text.startswith('Referenced ClusterTrainingRuntime "torch-distributed" is deprecated')


# defaulting


def test_each_patch_says_when_its_manager_last_changed_it():
    job = train_job(patches=[patch(nodeSelector={"a": "b"}), patch(manager="b.io/c")])
    admission.default(job, None, "T1")
    assert [entry["time"] for entry in job["spec"]["runtimePatches"]] == ["T1", "T1"]
    later = train_job(
        patches=[patch(nodeSelector={"a": "c"}), patch(manager="b.io/c"), patch(manager="d.io/e")]
    )
    admission.default(later, job, "T2")
    assert [entry["time"] for entry in later["spec"]["runtimePatches"]] == ["T2", "T1", "T2"]


def test_defaulting_leaves_nonsense_to_the_schema():
    for spec in (None, [], {"runtimePatches": "x"}, {"runtimePatches": ["x"]}):
        admission.default({"spec": spec}, None, "T1")
