"""The training runtimes that every cluster has, as Kubeflow Trainer's own manifests have them.

Names, images, labels and policies are those of Trainer v2.3 (``manifests/base/runtimes``), because
programs and the SDK refer to them. What the images stand for here is in ``node.images``.
"""

from __future__ import annotations

from typing import Any

from kubarium.api.resource import Document
from kubarium.api.trainer import names

SYSTEM_NAMESPACE = "kubeflow-system"
VERSION = "v2.3.0"
_API_VERSION = f"{names.GROUP}/v1alpha1"
_TORCH_IMAGE = "pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime"
_OWN_IMAGES = "ghcr.io/kubeflow/trainer"
# Runtime -> (model as torchtune names it, what the hub calls it, tokenizer's files).
_LLAMA = ("tokenizer.path=/workspace/model/original/tokenizer.model",)
_QWEN = (
    "tokenizer.path=/workspace/model/vocab.json",
    "tokenizer.merges_file=/workspace/model/merges.txt",
)
_TORCHTUNE = {
    "torchtune-llama3.2-1b": ("llama3_2/1B", "meta-llama/Llama-3.2-1B-Instruct", _LLAMA),
    "torchtune-llama3.2-3b": ("llama3_2/3B", "meta-llama/Llama-3.2-3B-Instruct", _LLAMA),
    "torchtune-qwen2.5-1.5b": ("qwen2_5/1.5B", "Qwen/Qwen2.5-1.5B-Instruct", _QWEN),
}


def documents() -> list[Document]:
    """Namespace, version and runtimes, in an order in which they can be created."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "kubeflow-trainer-public", "namespace": SYSTEM_NAMESPACE},
            "data": {"kubeflow_trainer_version": VERSION},
        },
        *_public(),
        *runtimes(),
    ]


def _public() -> list[Document]:
    """Everybody may read which version this is."""
    name = "kubeflow-trainer-public"
    rule = {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": [name],
        "verbs": ["get", "list", "watch"],
    }
    group, api_version = "rbac.authorization.k8s.io", "rbac.authorization.k8s.io/v1"
    metadata = {"name": name, "namespace": SYSTEM_NAMESPACE}
    subject = {"kind": "Group", "apiGroup": group, "name": "system:authenticated"}
    return [
        {"apiVersion": api_version, "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": api_version,
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [subject],
        },
    ]


def runtimes() -> list[Document]:
    """The ClusterTrainingRuntimes."""
    return [
        _single("torch-distributed", "torch", {"torch": {}}, _TORCH_IMAGE),
        _single("jax-distributed", "jax", {"jax": {}}, "nvcr.io/nvidia/jax:25.10-py3"),
        _single(
            "xgboost-distributed", "xgboost", {"xgboost": {}}, f"{_OWN_IMAGES}/xgboost-runtime"
        ),
        _mpi("deepspeed-distributed", "deepspeed"),
        _mpi("mlx-distributed", "mlx"),
        *(_torchtune(name, *given) for name, given in _TORCHTUNE.items()),
    ]


def _runtime(name: str, framework: str, policy: Document, template: Document) -> Document:
    return {
        "apiVersion": _API_VERSION,
        "kind": "ClusterTrainingRuntime",
        "metadata": {"name": name, "labels": {names.FRAMEWORK: framework}},
        "spec": {"mlPolicy": {"numNodes": 1, **policy}, "template": {"spec": template}},
    }


def _job(name: str, pod: Document, step: str = "", after: tuple[str, ...] = ()) -> Document:
    """A replicated job; ``after`` are entries "name=status" of what it waits for."""
    template: Document = {"spec": {"template": {"spec": pod}}}
    if step:
        template["metadata"] = {"labels": {names.ANCESTOR: step}}
    job: Document = {"name": name, "template": template}
    if after:
        pairs = [entry.split("=") for entry in after]
        job["dependsOn"] = [{"name": other, "status": status} for other, status in pairs]
    return job


def _container(name: str, image: str, **more: Any) -> Document:
    return {"containers": [{"name": name, "image": image, **more}]}


def _single(name: str, framework: str, policy: Document, image: str) -> Document:
    """All nodes alike."""
    job = _job(names.NODE, _container(names.NODE, image), names.TRAINER)
    return _runtime(name, framework, policy, {"replicatedJobs": [job]})


def _mpi(name: str, framework: str) -> Document:
    """Nodes that wait for a launcher to reach them by SSH."""
    image = f"{_OWN_IMAGES}/{framework}-runtime"
    user = {"securityContext": {"runAsUser": 1000}}
    home = "/home/mpiuser"
    node = _container(
        names.NODE,
        image,
        **user,
        command=["/usr/sbin/sshd"],
        args=["-De", "-f", f"{home}/.sshd_config"],
        readinessProbe={"tcpSocket": {"port": 2222}, "initialDelaySeconds": 5},
    )
    launcher = _container(names.NODE, image, **user)
    files = {"securityContext": {"fsGroup": 1000}}
    policy = {
        "numProcPerNode": 1,
        "mpiImplementation": "OpenMPI",
        "sshAuthMountPath": f"{home}/.ssh",
        "runLauncherAsNode": True,
    }
    template = {
        "network": {"publishNotReadyAddresses": True},
        "successPolicy": {"operator": "All", "targetReplicatedJobs": [names.LAUNCHER]},
        "replicatedJobs": [
            _job(names.NODE, files | node),
            _job(names.LAUNCHER, files | launcher, names.TRAINER, (f"{names.NODE}=Ready",)),
        ],
    }
    return _runtime(name, framework, {"mpi": policy}, template)


def _torchtune(name: str, model: str, hub: str, tokenizer: tuple[str, ...]) -> Document:
    """Data set and model are fetched first, then one node fine-tunes."""
    volume = names.INITIALIZER_VOLUME
    workspace = {"volumeMounts": [{"mountPath": "/workspace", "name": volume}]}
    fetch = [
        _job(
            step,
            _container(
                step,
                f"{_OWN_IMAGES}/{step}",
                env=[{"name": names.STORAGE_URI, "value": f"hf://{uri}"}],
                **workspace,
            ),
            step,
        )
        for step, uri in (
            (names.DATASET_INITIALIZER, "tatsu-lab/alpaca"),
            (names.MODEL_INITIALIZER, hub),
        )
    ]
    command = [
        *("tune", "run", f"--rdzv_endpoint=localhost:{names.PORT}", "full_finetune_distributed"),
        *("--config", f"{model}_full"),
        *("dataset=torchtune.datasets.instruct_dataset", "dataset.source=parquet"),
        *("dataset.data_dir=/workspace/dataset/data", "output_dir=/workspace/output"),
        *tokenizer,
        "checkpointer.checkpoint_dir=/workspace/model",
    ]
    node = _container(
        names.NODE,
        f"{_OWN_IMAGES}/torchtune-trainer",
        command=command,
        resources={"limits": {"nvidia.com/gpu": 2}},
        **workspace,
    )
    fetched = tuple(f"{job['name']}=Complete" for job in fetch)
    claim = {
        "metadata": {"name": volume},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "20Gi"}},
        },
    }
    template = {
        "volumeClaimPolicies": [{"templates": [claim]}],
        "replicatedJobs": [*fetch, _job(names.NODE, node, names.TRAINER, fetched)],
    }
    return _runtime(name, "torchtune", {"torch": {}}, template)
