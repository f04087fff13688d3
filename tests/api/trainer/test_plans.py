"""What a TrainJob and its runtime come to, without an API server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.resource import copy_document
from kubarium.api.trainer import gang_of, job_set, mpi_hostfile, names, plan_of, pod_group
from kubarium.cluster import training

RUNTIMES = {doc["metadata"]["name"]: doc for doc in training.runtimes()}


def train_job(runtime="torch-distributed", name="job", initializer=None, patches=(), **trainer):
    spec = {"runtimeRef": {"name": runtime, "kind": "ClusterTrainingRuntime"}}
    if trainer:
        spec["trainer"] = trainer
    if initializer:
        spec["initializer"] = initializer
    if patches:
        spec["runtimePatches"] = list(patches)
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": "default", "uid": "u"},
        "spec": spec,
    }


def plan(runtime="torch-distributed", changes=None, **given):
    spec = copy_document(RUNTIMES[runtime]["spec"]) | (changes or {})
    return plan_of(train_job(runtime, **given), spec)


def container(jobset, job="node", name="node"):
    [found] = [entry for entry in jobset["spec"]["replicatedJobs"] if entry["name"] == job]
    pod = found["template"]["spec"]["template"]["spec"]
    return next(entry for entry in pod["containers"] if entry["name"] == name)


def env(jobset, job="node", name="node"):
    entries = container(jobset, job, name).get("env", [])
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in entries}


def env_of(runtime="torch-distributed", **given):
    job = "launcher" if given.get("launcher") else "node"
    given.pop("launcher", None)
    return env(job_set(plan(runtime, **given)), job)


RANK = {"fieldRef": {"fieldPath": names.RANK_FIELD}}
CPU = {"requests": {"cpu": "2500m"}}
GPU = {"limits": {"nvidia.com/gpu": 4}}


def test_torch_processes_meet_at_rank_0():
    found = env_of(numNodes=3)
    assert found["PET_NNODES"] == "3"
    assert found["PET_NODE_RANK"] == RANK
    assert found["PET_MASTER_ADDR"] == "job-node-0-0.job"
    assert found["PET_MASTER_PORT"] == "29500"


@pytest.mark.parametrize(
    ("trainer", "processes"),
    [
        ({"numNodes": 1}, "1"),
        ({"resourcesPerNode": CPU}, "3"),
        ({"resourcesPerNode": {"limits": {"cpu": "2"}}}, "2"),
        ({"resourcesPerNode": {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}}, "1"),
        ({"resourcesPerNode": GPU}, "auto"),
        ({"resourcesPerNode": GPU, "numProcPerNode": 2}, "2"),
    ],
)
def test_processes_of_a_node_follow_its_devices_or_cpus(trainer, processes):
    assert env_of(**trainer)["PET_NPROC_PER_NODE"] == processes


def test_jax_and_xgboost_have_their_own_names_for_the_same():
    assert env_of("jax-distributed", numNodes=2) | {
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": RANK,
        "JAX_COORDINATOR_ADDRESS": "job-node-0-0.job:29500",
    } == env_of("jax-distributed", numNodes=2)
    found = env_of("xgboost-distributed", numNodes=2, resourcesPerNode=GPU)
    assert found["DMLC_TRACKER_URI"] == "job-node-0-0.job"
    assert found["DMLC_TRACKER_PORT"] == "29500"
    assert found["DMLC_TASK_ID"] == RANK
    assert found["DMLC_NUM_WORKER"] == "8"  # one for each GPU


def test_a_trainjob_that_says_nothing_of_its_trainer_gets_no_variables_but_progress():
    found = env_of()
    assert set(found) == {names.STATUS_URL_ENV, names.STATUS_CA_ENV, names.STATUS_TOKEN_ENV}


def test_the_trainer_overrides_image_command_args_and_env():
    jobset = job_set(
        plan(
            image="mine:1",
            command=["python3"],
            args=["-V"],
            env=[{"name": "LR", "value": "0.1"}, {"name": "PATH", "value": "/x"}],
            resourcesPerNode={"limits": {"cpu": "1"}},
        )
    )
    found = container(jobset)
    assert (found["image"], found["command"], found["args"]) == ("mine:1", ["python3"], ["-V"])
    assert env(jobset)["LR"] == "0.1"
    assert found["resources"] == {"limits": {"cpu": "1"}}


def test_the_runtimes_own_resources_stay_where_the_trainer_names_others():
    spec = copy_document(RUNTIMES["torch-distributed"]["spec"])
    pod = spec["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["containers"][0]["resources"] = {"limits": {"cpu": "4", "memory": "1Gi"}}
    made = job_set(plan_of(train_job(resourcesPerNode={"limits": {"cpu": "2"}}), spec))
    assert container(made)["resources"] == {"limits": {"cpu": "2", "memory": "1Gi"}}


def patch(manager, job="node", pod=None, pod_metadata=None, **metadata):
    template = {}
    if pod:
        template["spec"] = pod
    if pod_metadata:
        template["metadata"] = pod_metadata
    jobs = [{"name": job, "template": {"spec": {"template": template}}}]
    change = {"spec": {"replicatedJobs": jobs}}
    if metadata:
        change["metadata"] = metadata
    return {"manager": manager, "trainingRuntimeSpec": {"template": change}}


def test_patches_merge_in_order_and_keep_what_they_do_not_name():
    volumes = [{"name": "data", "emptyDir": {}}]
    mounts = [{"name": "node", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]
    first = patch("a.io/x", pod={"nodeSelector": {"zone": "1", "gpu": "yes"}}, labels={"t": "1"})
    second = patch(
        "b.io/y",
        pod={"nodeSelector": {"zone": "2"}, "volumes": volumes, "containers": mounts},
        pod_metadata={"labels": {"team": "ml"}},
    )
    made = job_set(plan(patches=[first, second], numNodes=2))
    pod = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert pod["spec"]["nodeSelector"] == {"zone": "2", "gpu": "yes"}
    assert pod["metadata"]["labels"] == {"team": "ml"}
    assert made["metadata"]["labels"] == {"t": "1"}
    assert container(made)["image"].startswith("pytorch/pytorch")
    assert {"name": "data", "mountPath": "/data"} in container(made)["volumeMounts"]


def test_patches_do_not_change_the_order_of_jobs():
    name = "torchtune-llama3.2-1b"
    selector = {"nodeSelector": {"a": "b"}}
    changed = plan(name, patches=[patch("a.io/x", "node", pod=selector)])
    assert [job["name"] for job in changed.jobs] == [job["name"] for job in plan(name).jobs]


def test_neither_runtime_nor_trainjob_is_changed():
    runtime = copy_document(RUNTIMES["torchtune-llama3.2-1b"])
    trainjob = train_job(
        "torchtune-llama3.2-1b", command=["tune", "run"], env=[{"name": "A", "value": "1"}]
    )
    before = copy_document(trainjob)
    job_set(plan_of(trainjob, runtime["spec"]))
    assert runtime == RUNTIMES["torchtune-llama3.2-1b"]
    assert trainjob == before


def test_initializers_learn_where_from():
    initializer = {
        "dataset": {
            "storageUri": "hf://a/b",
            "env": [{"name": "X", "value": "1"}],
            "secretRef": {"name": "token"},
        }
    }
    made = job_set(plan("torchtune-llama3.2-1b", initializer=initializer))
    found = env(made, "dataset-initializer", "dataset-initializer")
    assert found == {"STORAGE_URI": "hf://a/b", "X": "1"}
    sources = container(made, "dataset-initializer", "dataset-initializer")["envFrom"]
    assert sources == [{"secretRef": {"name": "token"}}]
    # The model is the runtime's.
    kept = env(made, "model-initializer", "model-initializer")
    assert kept == {"STORAGE_URI": "hf://meta-llama/Llama-3.2-1B-Instruct"}


# MPI


def test_mpi_launches_over_ssh_from_a_host_file():
    made = plan("deepspeed-distributed", numNodes=3, numProcPerNode=2)
    hosts = mpi_hostfile(made)
    assert hosts["metadata"]["name"] == "job-mpi-hostfile"
    assert hosts["data"]["hostfile"].splitlines() == [
        "job-node-0-0.job slots=2",
        "job-node-0-1.job slots=2",
        "job-launcher-0-0.job slots=2",
    ]
    jobset = job_set(made)
    found = env(jobset, "launcher")
    assert found["OMPI_MCA_orte_default_hostfile"] == "/etc/mpi/hostfile"
    assert found["OMPI_MCA_orte_set_default_slots"] == "2"
    assert "OMPI_MCA_orte_default_hostfile" not in env(jobset, "node")
    mounts = {m["mountPath"] for m in container(jobset, "node")["volumeMounts"]}
    assert mounts == {"/home/mpiuser/.ssh"}


@pytest.mark.parametrize(
    ("pod", "container", "mode"),
    [
        ({}, {}, 0o600),
        ({"runAsUser": 1000}, {"runAsUser": 0}, 0o600),
        ({}, {"runAsUser": 1000}, 0o640),
        ({"runAsUser": 1000}, {}, 0o640),
        ({"fsGroup": 1000}, {}, 0o640),
    ],
)
def test_ssh_takes_the_key_of_root_and_of_others(pod, container, mode):
    template = copy_document(RUNTIMES["deepspeed-distributed"]["spec"]["template"])
    for job in template["spec"]["replicatedJobs"]:
        spec = job["template"]["spec"]["template"]["spec"]
        spec["securityContext"] = pod
        spec["containers"][0]["securityContext"] = container
    made = job_set(plan("deepspeed-distributed", {"template": template}))
    for job in made["spec"]["replicatedJobs"]:
        volumes = job["template"]["spec"]["template"]["spec"]["volumes"]
        [keys] = [volume["secret"] for volume in volumes if volume["name"] == "mpi-ssh-auth"]
        modes = {item["path"]: item["mode"] for item in keys["items"]}
        assert modes == {"id_rsa": mode, "id_rsa.pub": 0o644, "authorized_keys": 0o644}


def test_mpi_counts_gpus_where_nobody_counts_processes():
    made = plan("deepspeed-distributed", numNodes=1, resourcesPerNode=GPU)
    assert made.slots == 4


def test_only_mpi_has_a_host_file():
    assert mpi_hostfile(plan(numNodes=2)) is None


# torchtune


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"numProcPerNode": 1}, ["full_finetune_single_device", "llama3_2/1B_full_single_device"]),
        ({}, ["full_finetune_distributed", "llama3_2/1B_full"]),
        (
            {"args": ["model.lora_attn_modules=[q]"]},
            ["lora_finetune_distributed", "llama3_2/1B_lora"],
        ),
        (
            {"args": ["model.quantize_base=True"], "numProcPerNode": 1},
            ["lora_finetune_single_device", "llama3_2/1B_qlora_single_device"],
        ),
        (
            {"args": ["model.quantize_base=True", "model.use_dora=true"], "numProcPerNode": 1},
            ["full_finetune_single_device", "llama3_2/1B_full_single_device"],
        ),
    ],
)
def test_torchtune_gets_the_recipe_that_fits(trainer, expected):
    made = job_set(plan("torchtune-llama3.2-1b", command=["tune", "run"], **trainer))
    command = container(made)["command"]
    recipe, config = expected
    rendezvous = ["--rdzv_endpoint=job-node-0-0.job:29500"] if "distributed" in recipe else []
    assert command == [
        "tune",
        "run",
        *rendezvous,
        recipe,
        "--config",
        config,
        "output_dir=/workspace/output",
        "tokenizer.path=/workspace/model/original/tokenizer.model",
        "checkpointer.checkpoint_dir=/workspace/model",
    ]
    assert "PET_MASTER_ADDR" not in env(made)


# gangs


def test_no_policy_no_group():
    assert pod_group(plan(numNodes=2), {}) is None


@pytest.mark.parametrize(
    "policy", [{"coscheduling": {"scheduleTimeoutSeconds": 9}}, {"volcano": {}}]
)
def test_all_nodes_start_together_or_not_at_all(policy):
    made = plan(numNodes=4, changes={"podGroupPolicy": policy})
    group = pod_group(made, {"cpu": "4"})
    timeout_s = policy.get("coscheduling", {}).get("scheduleTimeoutSeconds", 60)
    assert group["spec"] == {
        "minMember": 4,
        "scheduleTimeoutSeconds": timeout_s,
        "minResources": {"cpu": "4"},
    }
    pod = job_set(made)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert pod["metadata"]["labels"] == {"scheduling.x-k8s.io/pod-group": "job"}


def test_who_ends_before_the_others_start_is_not_in_the_gang():
    made = plan("torchtune-llama3.2-1b", changes={"podGroupPolicy": {"coscheduling": {}}})
    assert gang_of(made) == {"node": 1}
    jobs = job_set(made)["spec"]["replicatedJobs"]
    labelled = [job["name"] for job in jobs if "metadata" in job["template"]["spec"]["template"]]
    assert labelled == ["node"]


def test_who_waits_for_the_others_to_be_ready_is_not_waited_for():
    policy = {"podGroupPolicy": {"coscheduling": {}}}
    assert gang_of(plan("deepspeed-distributed", changes=policy, numNodes=4)) == {"node": 3}


# properties

RUNTIME_NAMES = st.sampled_from(["torch-distributed", "jax-distributed", "xgboost-distributed"])


@given(RUNTIME_NAMES, st.integers(0, 200))
def test_every_process_is_told_of_as_many_peers_as_there_are_pods(runtime, nodes):
    made = job_set(plan(runtime, numNodes=nodes))
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == nodes
    size = {"PET_NNODES", "JAX_NUM_PROCESSES", "DMLC_NUM_WORKER"} & env(made).keys()
    assert [env(made)[name] for name in size] == [str(nodes)]


@given(st.sampled_from(sorted(RUNTIMES)), st.integers(1, 8))
def test_names_in_lists_are_unique(runtime, nodes):
    for job in job_set(plan(runtime, numNodes=nodes))["spec"]["replicatedJobs"]:
        pod = job["template"]["spec"]["template"]["spec"]
        volumes = [volume["name"] for volume in pod.get("volumes", [])]
        assert len(volumes) == len(set(volumes))
        for entry in pod["containers"]:
            for field, key in (("env", "name"), ("volumeMounts", "mountPath")):
                keys = [item[key] for item in entry.get(field, [])]
                assert len(keys) == len(set(keys))
