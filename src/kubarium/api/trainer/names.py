"""Names that TrainJobs, their runtimes and users' programs agree on (``pkg/constants``)."""

from __future__ import annotations

from kubarium.api.labels import COMPLETION_INDEX

GROUP = "trainer.kubeflow.org"
CONTROLLER = f"{GROUP}/trainjob-controller"
ANCESTOR = f"{GROUP}/trainjob-ancestor-step"
FRAMEWORK = f"{GROUP}/framework"
SUPPORT = f"{GROUP}/support"
DEPRECATED = "deprecated"
DEPRECATION_POLICY = (
    "https://trainer.kubeflow.org/en/latest/operator-guides/runtime.html#runtime-deprecation-policy"
)

# Steps of a TrainJob; also the names of their replicated jobs.
TRAINER = "trainer"
DATASET_INITIALIZER = "dataset-initializer"
MODEL_INITIALIZER = "model-initializer"
LAUNCHER = "launcher"
NODE = "node"
INITIALIZER_VOLUME = "initializer"
STORAGE_URI = "STORAGE_URI"
# Step -> the container that every runtime must have for it.
CONTAINER_OF = {
    TRAINER: NODE,
    DATASET_INITIALIZER: DATASET_INITIALIZER,
    MODEL_INITIALIZER: MODEL_INITIALIZER,
}
# Step of the initializer -> its field in spec.initializer.
INITIALIZERS = {DATASET_INITIALIZER: "dataset", MODEL_INITIALIZER: "model"}

PORT = 29500
RANK_FIELD = f"metadata.annotations['{COMPLETION_INDEX}']"

TORCH_ENV = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR")
TORCH_RESERVED = frozenset((*TORCH_ENV, "PET_MASTER_PORT"))
XGBOOST_RESERVED = frozenset(
    ("DMLC_TRACKER_URI", "DMLC_TRACKER_PORT", "DMLC_TASK_ID", "DMLC_NUM_WORKER")
)
MPI_HOSTFILE_ENV = "OMPI_MCA_orte_default_hostfile"
MPI_RSH_ENV = "OMPI_MCA_plm_rsh_args"
MPI_FQDN_ENV = "OMPI_MCA_orte_keep_fqdn_hostnames"
MPI_SLOTS_ENV = "OMPI_MCA_orte_set_default_slots"
MPI_RESERVED = frozenset((MPI_HOSTFILE_ENV, MPI_RSH_ENV, MPI_FQDN_ENV, MPI_SLOTS_ENV))
MPI_HOSTFILE_FOLDER = "/etc/mpi"
MPI_HOSTFILE = "hostfile"
MPI_HOSTFILE_VOLUME = "mpi-hostfile"
MPI_SSH_VOLUME = "mpi-ssh-auth"
SSH_PRIVATE_KEY = "ssh-privatekey"
SSH_PUBLIC_KEY = "ssh-publickey"

# What a program that reports its progress is told (feature TrainJobStatus).
STATUS_URL_ENV = "KUBEFLOW_TRAINER_SERVER_URL"
STATUS_CA_ENV = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
STATUS_TOKEN_ENV = "KUBEFLOW_TRAINER_SERVER_TOKEN"
STATUS_FOLDER = "/var/run/secrets/kubeflow/trainer"
STATUS_VOLUME = "kubeflow-trainer-token"
STATUS_TOKEN_S = 3600

COSCHEDULING_LABEL = "scheduling.x-k8s.io/pod-group"
VOLCANO_GROUP = "scheduling.k8s.io/group-name"
VOLCANO_QUEUE = "scheduling.volcano.sh/queue-name"


def status_path(namespace: str, name: str) -> str:
    """Where a TrainJob's program posts its progress."""
    return f"/apis/{GROUP}/v1alpha1/namespaces/{namespace}/trainjobs/{name}/status"


def status_audience(namespace: str, name: str) -> str:
    """Whom the token for that is for: nobody but this TrainJob's status."""
    return f"{GROUP}/v1alpha1/namespaces/{namespace}/trainjobs/{name}/status"


def snapshot_name(trainjob: str) -> str:
    """The ConfigMap that keeps the runtime as it was when the TrainJob first ran."""
    return f"{trainjob}-runtime-snapshot"


def ssh_secret_name(trainjob: str) -> str:
    """The Secret with the keys by which an MPI launcher reaches its nodes."""
    return f"{trainjob}-mpi-ssh-auth"


def hostfile_name(trainjob: str) -> str:
    """The ConfigMap with the hosts of an MPI job."""
    return f"{trainjob}-mpi-hostfile"
