"""How the processes of each framework find each other: environment, ports, files.

Source: the plug-ins of ``pkg/runtime/framework/plugins`` (torch, mpi, jax, xgboost, plainml,
coscheduling, volcano, trainjobstatus).
"""

from __future__ import annotations

from kubarium.api.resource import Document, copy_document
from kubarium.api.trainer import names
from kubarium.api.trainer.names import LAUNCHER, NODE, TRAINER
from kubarium.api.trainer.template import (
    Plan,
    container_of,
    cpus,
    gpus,
    job_spec,
    merged,
    node_resources,
    pod_spec,
    set_env,
    upsert,
)
from kubarium.api.trainer.torchtune import complete_command, is_torchtune

AUTO = "auto"


def plan_of(trainjob: Document, runtime_spec: Document) -> Plan:
    """Everything that follows from a TrainJob and its runtime. ApiError for patches that do not
    fit, QuantityError for resources that are none."""
    plan = merged(trainjob, runtime_spec)
    policy = plan.ml_policy
    if policy.get("mpi") is not None:
        _mpi(plan)
    else:
        _set_nodes(plan)
        _own_env(plan)
        if policy.get("torch") is not None:
            _torch(plan)
        elif policy.get("jax") is not None:
            _jax(plan)
        elif policy.get("xgboost") is not None:
            _xgboost(plan)
    _report_progress(plan)
    for job in plan.jobs:
        count = plan.counts[job["name"]]
        job_spec(job).update(parallelism=count, completions=count)
    return plan


def _set_nodes(plan: Plan) -> None:
    job = plan.step(TRAINER)
    wanted = (plan.trainer or {}).get("numNodes")
    if job is not None and wanted is not None:
        plan.counts[job["name"]] = int(wanted)


def _own_env(plan: Plan) -> None:
    container = plan.trainer_container()
    if container is not None:
        set_env(container, _env_of(plan))


def _env_of(plan: Plan) -> list[Document]:
    found: list[Document] = copy_document((plan.trainer or {}).get("env") or [])
    return found


def _plain(name: str, value: str | int) -> Document:
    return {"name": name, "value": str(value)}


def _rank(name: str) -> Document:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": names.RANK_FIELD}}}


def _open_port(container: Document) -> None:
    port = {"containerPort": names.PORT, "protocol": "TCP"}
    upsert(container, "ports", [port], "containerPort")


# torch


def processes_per_node(plan: Plan) -> str:
    """``PET_NPROC_PER_NODE``: as said, ``auto`` with GPUs, else the CPUs asked for, at least 1."""
    given = (plan.trainer or {}).get("numProcPerNode")
    if given is not None:
        return str(given)
    resources = node_resources(plan)
    return AUTO if gpus(resources) else str(max(1, cpus(resources)))


def _torch(plan: Plan) -> None:
    common = [
        _plain("PET_NNODES", plan.nodes),
        _plain("PET_NPROC_PER_NODE", processes_per_node(plan)),
        _rank("PET_NODE_RANK"),
    ]
    meeting = [
        _plain("PET_MASTER_ADDR", plan.first_node),
        _plain("PET_MASTER_PORT", names.PORT),
    ]
    container = plan.trainer_container()
    if container is not None:
        set_env(container, common)
        if is_torchtune(plan.trainer or {}):
            complete_command(plan, processes_per_node(plan))
        else:
            set_env(container, meeting)
        _open_port(container)
    injection = plan.ml_policy["torch"].get("envInjection") or {}
    for target in injection.get("targets") or ():
        job = plan.job(target["jobName"])
        for name in target["containerNames"]:
            other = container_of(job, name, init=True) if job else None
            if other is not None:
                set_env(other, copy_document([*common, *meeting]))


# jax, xgboost


def _jax(plan: Plan) -> None:
    container = plan.trainer_container()
    if container is None:
        return
    set_env(
        container,
        [
            _plain("JAX_NUM_PROCESSES", plan.nodes),
            _rank("JAX_PROCESS_ID"),
            _plain("JAX_COORDINATOR_ADDRESS", f"{plan.first_node}:{names.PORT}"),
        ],
    )
    _open_port(container)


def _xgboost(plan: Plan) -> None:
    container = plan.trainer_container()
    if container is None:
        return
    workers = plan.nodes * max(1, gpus(node_resources(plan)))
    set_env(
        container,
        [
            _plain("DMLC_TRACKER_URI", plan.first_node),
            _plain("DMLC_TRACKER_PORT", names.PORT),
            _rank("DMLC_TASK_ID"),
            _plain("DMLC_NUM_WORKER", workers),
        ],
    )
    _open_port(container)


# MPI


def _mpi(plan: Plan) -> None:
    policy = plan.ml_policy["mpi"]
    wanted = (plan.trainer or {}).get("numNodes")
    if wanted is not None and plan.job(NODE) is not None:
        # The launcher trains too, so that there is one node less to start.
        as_node = bool(policy.get("runLauncherAsNode"))
        plan.counts[NODE] = max(int(wanted) - 1, 1) if as_node else int(wanted)
    plan.slots = _slots(plan, int(policy.get("numProcPerNode") or 1))
    for name in (NODE, LAUNCHER):
        job = plan.job(name)
        if job is not None:
            _mount_mpi_files(plan, job, str(policy.get("sshAuthMountPath") or "/root/.ssh"))


def _slots(plan: Plan, of_runtime: int) -> int:
    given = (plan.trainer or {}).get("numProcPerNode")
    if given is not None:
        return int(given)
    return max(of_runtime, gpus(node_resources(plan))) if of_runtime == 1 else of_runtime


def _mount_mpi_files(plan: Plan, job: Document, ssh_folder: str) -> None:
    is_launcher = job["name"] == LAUNCHER
    container = container_of(job, NODE)
    volumes = [_ssh_volume(plan.name, _key_mode(pod_spec(job), container or {}))]
    if is_launcher:
        volumes.append(_hostfile_volume(plan.name))
    upsert(pod_spec(job), "volumes", volumes, "name")
    if container is None:
        return
    ssh_mount = {"name": names.MPI_SSH_VOLUME, "mountPath": ssh_folder}
    upsert(container, "volumeMounts", [ssh_mount], "mountPath")
    if is_launcher:
        folder = names.MPI_HOSTFILE_FOLDER
        hosts = {"name": names.MPI_HOSTFILE_VOLUME, "mountPath": folder}
        upsert(container, "volumeMounts", [hosts], "mountPath")
        set_env(
            container,
            [
                _plain(names.MPI_HOSTFILE_ENV, f"{folder}/{names.MPI_HOSTFILE}"),
                _plain(names.MPI_FQDN_ENV, "true"),
                _plain(names.MPI_SLOTS_ENV, plan.slots),
                _plain(names.MPI_RSH_ENV, "-o ConnectionAttempts=10"),
            ],
        )


def _key_mode(pod: Document, container: Document) -> int:
    """Volumes are root's, so that others need a group's permission to read a key; but ssh and sshd
    refuse a key that is their own user's and open to a group (upstream opens root's, too)."""
    shared, own = pod.get("securityContext") or {}, container.get("securityContext") or {}
    user = own.get("runAsUser")
    user = shared.get("runAsUser") if user is None else user
    return 0o640 if user or shared.get("fsGroup") is not None else 0o600


def _ssh_volume(trainjob: str, key_mode: int) -> Document:
    items = [
        {"key": names.SSH_PRIVATE_KEY, "path": "id_rsa", "mode": key_mode},
        {"key": names.SSH_PUBLIC_KEY, "path": "id_rsa.pub", "mode": 0o644},
        {"key": names.SSH_PUBLIC_KEY, "path": "authorized_keys", "mode": 0o644},
    ]
    secret = {
        "secretName": names.ssh_secret_name(trainjob),
        "defaultMode": 0o400,
        "items": items,
    }
    return {"name": names.MPI_SSH_VOLUME, "secret": secret}


def _hostfile_volume(trainjob: str) -> Document:
    item = {"key": names.MPI_HOSTFILE, "path": names.MPI_HOSTFILE, "mode": 0o444}
    config_map = {"name": names.hostfile_name(trainjob), "items": [item]}
    return {"name": names.MPI_HOSTFILE_VOLUME, "configMap": config_map}


# progress


def _report_progress(plan: Plan) -> None:
    """Address, certificate and token for posting progress, in every container that trains."""
    job = plan.step(TRAINER)
    if job is None:
        return
    namespace = str(plan.trainjob["metadata"].get("namespace", ""))
    # The API server itself takes the reports; pods know it by these variables.
    server = "https://$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)"
    folder = names.STATUS_FOLDER
    env = [
        _plain(names.STATUS_URL_ENV, server + names.status_path(namespace, plan.name)),
        _plain(names.STATUS_CA_ENV, f"{folder}/ca.crt"),
        _plain(names.STATUS_TOKEN_ENV, f"{folder}/token"),
    ]
    mount = {"name": names.STATUS_VOLUME, "mountPath": folder, "readOnly": True}
    pod = pod_spec(job)
    for container in pod.get("containers") or ():
        set_env(container, copy_document(env))
        upsert(container, "volumeMounts", [dict(mount)], "mountPath")
    upsert(pod, "volumes", [_progress_volume(namespace, plan.name)], "name")


def _progress_volume(namespace: str, name: str) -> Document:
    token = {
        "audience": names.status_audience(namespace, name),
        "expirationSeconds": names.STATUS_TOKEN_S,
        "path": "token",
    }
    certificate = {
        "name": "kube-root-ca.crt",
        "optional": True,  # not published where the API is not served over HTTPS
        "items": [{"key": "ca.crt", "path": "ca.crt"}],
    }
    sources = [{"serviceAccountToken": token}, {"configMap": certificate}]
    return {"name": names.STATUS_VOLUME, "projected": {"sources": sources}}
