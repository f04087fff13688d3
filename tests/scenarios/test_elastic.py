"""Gangs of real processes that lose ranks and go on: with a spare, smaller, and larger again."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
import yaml

from tests.conftest import ROOT, kubectls

from .ranks import run_ranks
from .test_crash import agents

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not kubectls(), reason="needs kubectl"),
]

SHARDS = 8
INDEX = "batch.kubernetes.io/job-completion-index"


def jobset(folder, ranks, steps, annotations, **pod):
    """A gang of kubarium.labs.survive that saves every 25 steps."""
    container = {
        "name": "rank",
        "image": "kubarium/train",
        "command": ["python", "-m", "kubarium.labs.survive"],
        "args": [
            f"--steps={steps}",
            "--step-time=0.01",
            "--every=25",
            "--folder=/checkpoints",
            f"--shards={SHARDS}",
        ],
        "env": [
            {"name": "WORLD_SIZE", "value": str(ranks)},
            {"name": "MASTER_ADDR", "value": "train-workers-0-0.train"},
            {"name": "OMP_NUM_THREADS", "value": "1"},
            {"name": "TEST_FOLDER", "value": str(folder)},
        ],
        "volumeMounts": [{"name": "checkpoints", "mountPath": "/checkpoints"}],
        "resources": {"requests": {"cpu": "100m"}},
    }
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 10,
        "containers": [container],
        "volumes": [{"name": "checkpoints", "hostPath": {"path": str(folder)}}],
        **pod,
    }
    job = {
        "completions": ranks,
        "parallelism": ranks,
        "backoffLimit": 0,
        "template": {"metadata": {"annotations": annotations}, "spec": spec},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "train"},
        "spec": {"replicatedJobs": [{"name": "workers", "template": {"spec": job}}]},
    }


@pytest.fixture
def gang(start_cluster):
    """Starts a gang in a cluster of its own, and knows what a test asks of it."""
    cluster = start_cluster()
    cluster.folder = cluster.home / "checkpoints"
    cluster.folder.mkdir(mode=0o777)

    def start(ranks, steps, **more):
        cluster.apply(jobset(cluster.folder, ranks, steps, **more))
        cluster.wait_until(
            lambda: len(list(cluster.folder.glob("step-*"))) > 1, 60, "two checkpoints"
        )

    cluster.start = start
    return cluster


@pytest.fixture(scope="module")
def uninterrupted():
    """The weights after so many steps when nothing happens, whatever the number of ranks."""
    found = {}

    def weights(steps, ranks=2):
        key = (steps, ranks)
        if key not in found:
            found[key] = run_bare(steps, ranks)
        return found[key]

    return weights


def run_bare(steps, ranks):
    command = ["-m", "kubarium.labs.survive", f"--steps={steps}", f"--shards={SHARDS}"]
    return json.loads(run_ranks(command, ranks, 90).splitlines()[-1])["weights"]


def pods(cluster, selector=""):
    more = ("-l", selector) if selector else ()
    return cluster.get("pods", *more)["items"]


def rank_pod(cluster, index):
    found = [
        pod
        for pod in pods(cluster, f"{INDEX}={index}")
        if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] == "Running"
    ]
    return found[0] if found else None


def spares(cluster):
    return pods(cluster, "kubarium.dev/spare=true")


def record(cluster):
    job = cluster.get("job", "train-workers-0")
    return json.loads(job["metadata"]["annotations"].get("kubarium.dev/gang", "{}"))


def waits(pod):
    """Whether a pod's launcher is at the rendezvous."""
    return any(
        c["type"] == "gang.kubarium.dev/rank" and c["reason"] == "Waiting"
        for c in pod["status"].get("conditions", ())
    )


def processes_of(cluster, pod):
    """(launcher, its command) of a pod, as the machine sees them."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        command = process.info["cmdline"] or []
        environment = process.info["environ"] or {}
        name = pod["spec"].get("hostname") or pod["metadata"]["name"]
        mine = environment.get("TEST_FOLDER") == str(cluster.folder)
        if (
            mine
            and environment.get("HOSTNAME") == name
            and "kubarium.train.launch" in command
            and process.children()
        ):
            return process, process.children()[0]
    raise AssertionError(f"pod {pod['metadata']['name']} has no process")


def completed(cluster):
    return cluster.has("Completed", "jobset", "train")


def final_weights(cluster):
    """What some rank 0 has said at its end."""
    for pod in pods(cluster):
        log = cluster.kubectl("logs", pod["metadata"]["name"], check=False)
        for line in log.splitlines():
            if line.startswith("{") and json.loads(line)["event"] == "done":
                return json.loads(line)["weights"]
    return None


def test_a_spare_takes_the_rank_of_a_killed_pod(gang, uninterrupted):
    gang.start(4, 900, annotations={"kubarium.dev/spares": "1"})
    [spare] = gang.wait_until(lambda: spares(gang), 30, "a spare")
    name = spare["metadata"]["name"]
    gang.wait_until(lambda: waits(spares(gang)[0]), 30, "the spare is warm")
    before = {pod["metadata"]["uid"] for pod in pods(gang)}
    lost = rank_pod(gang, 2)
    launcher, _ = processes_of(gang, lost)
    os.kill(launcher.pid, signal.SIGKILL)
    [text] = gang.wait_until(lambda: gang.events("SparePromoted"), 30, "a promotion")
    assert text.startswith(f"spare {name} has taken rank 2 of pod {lost['metadata']['name']} (")
    assert "exit code 137" in text
    assert "; 4 ranks go on from step " in text
    step = int(text.rpartition(" ")[2])
    assert step % 25 == 0
    now = rank_pod(gang, 2)
    assert now["metadata"]["name"] == name
    # The others are the same pods, and a new spare waits.
    [fresh] = gang.wait_until(lambda: spares(gang), 30, "the spare is replenished")
    assert fresh["metadata"]["uid"] not in before
    gang.wait_until(lambda: completed(gang), 60, "the run completes")
    assert gang.get("jobset", "train")["status"].get("restarts", 0) == 0
    assert final_weights(gang) == uninterrupted(900)


def test_a_rank_that_dies_brings_all_back_in_the_same_pods(gang, uninterrupted):
    gang.start(3, 700, annotations={"kubarium.dev/spares": "0"})
    before = {pod["metadata"]["uid"] for pod in pods(gang)}
    pod = rank_pod(gang, 1)
    _, command = processes_of(gang, pod)
    os.kill(command.pid, signal.SIGKILL)
    [text] = gang.wait_until(lambda: gang.events("GangRestarted"), 30, "a restart")
    assert text.startswith(
        f"attempt 2: rank 1 (pod {pod['metadata']['name']}) ended with exit code 137; "
        "3 ranks go on from step "
    )
    gang.wait_until(lambda: completed(gang), 60, "the run completes")
    assert {pod["metadata"]["uid"] for pod in pods(gang)} == before
    assert final_weights(gang) == uninterrupted(700)


def test_a_container_that_is_started_again_joins_its_gang(gang, uninterrupted):
    gang.start(3, 900, annotations={"kubarium.dev/spares": "0"}, restartPolicy="OnFailure")
    before = {pod["metadata"]["uid"] for pod in pods(gang)}
    launcher, _ = processes_of(gang, rank_pod(gang, 0))
    os.kill(launcher.pid, signal.SIGKILL)
    gang.wait_until(lambda: gang.events("GangRestarted"), 40, "a restart")
    gang.wait_until(lambda: completed(gang), 60, "the run completes")
    assert {pod["metadata"]["uid"] for pod in pods(gang)} == before
    restarts = [pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods(gang)]
    assert sorted(restarts) == [0, 0, 1]
    assert final_weights(gang) == uninterrupted(900)


def test_the_first_rank_is_deleted_and_no_step_is_lost(gang, uninterrupted):
    """Rank 0 is who all others connect to and who saves for all."""
    gang.start(4, 900, annotations={"kubarium.dev/spares": "1"})
    gang.wait_until(lambda: spares(gang) and waits(spares(gang)[0]), 30, "the spare is warm")
    before = {path.name for path in gang.folder.glob("step-*")}
    name = rank_pod(gang, 0)["metadata"]["name"]
    gang.kubectl("delete", "pod", name, "--wait=false")
    [text] = gang.wait_until(lambda: gang.events("SparePromoted"), 30, "a promotion")
    assert f"has taken rank 0 of pod {name} (deleted); 4 ranks go on from step " in text
    step = int(text.rpartition(" ")[2])
    assert f"step-{step:08d}" not in before, "all ranks have saved the step at which they stopped"
    host = gang.kubectl(
        "exec",
        rank_pod(gang, 3)["metadata"]["name"],
        "--",
        "python",
        "-c",
        "import socket; print(socket.gethostbyname('train-workers-0-0.train'))",
    )
    assert host.strip() == rank_pod(gang, 0)["status"]["podIP"]
    gang.wait_until(lambda: completed(gang), 60, "the run completes")
    assert final_weights(gang) == uninterrupted(900)


def test_without_room_the_gang_goes_on_smaller_and_grows_again(gang, uninterrupted):
    gang.start(
        4, 1500, annotations={"kubarium.dev/min-ranks": "2", "kubarium.dev/elastic-wait": "20s"}
    )
    nodes = [node["metadata"]["name"] for node in gang.get("nodes")["items"]]
    gang.kubectl("cordon", *nodes)
    launcher, _ = processes_of(gang, rank_pod(gang, 1))
    os.kill(launcher.pid, signal.SIGKILL)
    [text] = gang.wait_until(lambda: gang.events("GangShrunk"), 30, "it shrinks")
    assert "rank 1 (pod train-workers-0-1-" in text
    assert "lost, 4 ranks become 3; 3 ranks go on from step " in text
    ranks = record(gang)["ranks"]
    assert [entry["index"] for entry in ranks] == [0, 2, 3]
    before = {path.name for path in gang.folder.glob("step-*")}
    gang.kubectl("uncordon", *nodes)
    [text] = gang.wait_until(lambda: gang.events("GangGrown"), 40, "it grows")
    assert "room for more: 3 ranks become 4; 4 ranks go on from step " in text
    step = int(text.rpartition(" ")[2])
    assert f"step-{step:08d}" not in before, "growing loses no step"
    gang.wait_until(lambda: completed(gang), 60, "the run completes")
    assert final_weights(gang) == uninterrupted(1500)


def test_a_smaller_gang_ends_its_job(gang, uninterrupted):
    gang.start(
        3, 500, annotations={"kubarium.dev/min-ranks": "2", "kubarium.dev/elastic-wait": "0s"}
    )
    gang.kubectl("cordon", *[node["metadata"]["name"] for node in gang.get("nodes")["items"]])
    launcher, _ = processes_of(gang, rank_pod(gang, 0))
    os.kill(launcher.pid, signal.SIGKILL)
    gang.wait_until(lambda: completed(gang), 60, "the run completes")
    assert len(record(gang)["ranks"]) == 2
    job = gang.get("job", "train-workers-0")
    [met] = [c for c in job["status"]["conditions"] if c["type"] == "SuccessCriteriaMet"]
    assert met["message"] == "All 2 ranks have completed"
    assert final_weights(gang) == uninterrupted(500)


def test_a_gang_that_fails_again_and_again_is_given_up(gang):
    document = jobset(
        gang.folder,
        2,
        100,
        annotations={"kubarium.dev/spares": "0", "kubarium.dev/max-restarts": "2"},
    )
    [entry] = document["spec"]["replicatedJobs"]
    container = entry["template"]["spec"]["template"]["spec"]["containers"][0]
    container["command"], container["args"] = ["python", "-c", "raise SystemExit(9)"], []
    gang.apply(document)
    [text] = gang.wait_until(lambda: gang.events("GangGivenUp"), 40, "it is given up")
    assert "ended with exit code 9; that was failure 3 in a row without a new checkpoint" in text
    assert text.endswith("kubarium.dev/max-restarts allows 2")
    gang.wait_until(
        lambda: gang.get("jobset", "train").get("status", {}).get("terminalState") == "Failed",
        30,
        "the JobSet fails",
    )


def test_a_program_that_knows_nothing_of_it_survives_too(gang):
    """kubarium.labs.ddp has its own checkpoints and reports nothing to anybody."""
    document = jobset(gang.folder, 3, 0, {"kubarium.dev/spares": "1"})
    [entry] = document["spec"]["replicatedJobs"]
    container = entry["template"]["spec"]["template"]["spec"]["containers"][0]
    container["command"] = ["python3", "-m", "kubarium.labs.ddp"]
    container["args"] = [
        "--steps=900",
        "--step-time=0.01",
        "--checkpoint-every=25",
        "--checkpoint-dir=/checkpoints",
    ]
    gang.apply(document)
    gang.wait_until(lambda: list(gang.folder.glob("step-*")), 60, "a checkpoint")
    gang.wait_until(lambda: spares(gang) and waits(spares(gang)[0]), 30, "the spare is warm")
    launcher, _ = processes_of(gang, rank_pod(gang, 1))
    os.kill(launcher.pid, signal.SIGKILL)
    [text] = gang.wait_until(lambda: gang.events("SparePromoted"), 30, "a promotion")
    assert text.endswith("3 ranks go on from their last checkpoint")
    gang.wait_until(lambda: completed(gang), 60, "the run completes")


def test_a_rank_that_hangs_is_replaced_and_the_accounts_add_up(gang):
    gang.start(3, 900, annotations={"kubarium.dev/spares": "1", "kubarium.dev/hang-timeout": "20s"})
    gang.wait_until(lambda: spares(gang) and waits(spares(gang)[0]), 30, "the spare is warm")
    _, command = processes_of(gang, rank_pod(gang, 2))
    os.kill(command.pid, signal.SIGSTOP)
    [text] = gang.wait_until(lambda: gang.events("SparePromoted"), 30, "a promotion")
    assert "has taken rank 2 of pod" in text
    gang.wait_until(lambda: completed(gang), 60, "the run completes")
    report = json.loads(gang.kubarium("goodput", "jobset/train", "--output", "json").stdout)
    total = sum(report["rankSeconds"].values())
    assert total == pytest.approx(report["wallSeconds"] * report["ranks"], rel=0.01)
    assert report["ranks"] == 3
    assert report["restarts"] == 1
    assert report["spareSeconds"] > 0
    assert report["rankSeconds"]["hang"] > 0.5
    assert [attempt["ranks"] for attempt in report["gang"]] == [3, 3]
    # Nobody's second is lost: what is not named is little.
    assert report["shares"]["other"] < 0.1


def test_the_agent_may_die_and_the_gang_is_still_looked_after(gang, uninterrupted):
    gang.start(3, 1500, annotations={"kubarium.dev/spares": "1"})
    gang.wait_until(lambda: spares(gang) and waits(spares(gang)[0]), 30, "the spare is warm")
    launcher, _ = processes_of(gang, rank_pod(gang, 1))
    [agent] = agents(gang)
    agent.send_signal(signal.SIGSTOP)  # it shall not hear of the rank's end
    os.kill(launcher.pid, signal.SIGKILL)
    agent.kill()
    gang.wait_until(lambda: [a for a in agents(gang) if a.pid != agent.pid], 30, "a new agent")
    gang.wait_until(lambda: gang.events("SparePromoted"), 40, "a promotion")
    gang.kubectl("delete", "pod", rank_pod(gang, 0)["metadata"]["name"], "--wait=false")
    gang.wait_until(lambda: len(gang.events("SparePromoted")) > 1, 40, "another promotion")
    gang.wait_until(lambda: completed(gang), 60, "the run completes")
    assert final_weights(gang) == uninterrupted(1500)


@pytest.mark.long
def test_a_lost_node_is_survived(gang):
    gang.start(4, 20000, annotations={"kubarium.dev/spares": "2"})
    gang.wait_until(lambda: len(spares(gang)) == 2, 30, "spares")
    assert {pod["spec"]["nodeName"] for pod in pods(gang)} == {"node-0", "node-1"}
    gang.wait_until(lambda: len(places_of_ranks(gang)) == 4, 30, "all ranks have a place")
    places = places_of_ranks(gang)
    # A node with ranks, few of them, that leaves a spare.
    left = {pod["spec"]["nodeName"] for pod in spares(gang)}
    lost = min((node for node in set(places) if left - {node}), key=places.count)
    lose = ("chaos", "lose-node", "-l", f"kubernetes.io/hostname={lost}", "--duration", "120")
    command = [sys.executable, "-m", "kubarium.cli.main", *lose]
    # Stays until the fault is undone; without it, the cluster undoes it by itself.
    losing = subprocess.Popen(command, env=gang.environment, stdout=subprocess.DEVNULL)
    try:
        _survives_a_lost_node(gang, lost)
    finally:
        losing.send_signal(signal.SIGINT)
        losing.wait(60)


def places_of_ranks(gang):
    """The nodes of the ranks' pods, without those whose pod is gone."""
    by_name = {pod["metadata"]["name"]: pod["spec"].get("nodeName") for pod in pods(gang)}
    return [by_name[entry["pod"]] for entry in record(gang)["ranks"] if by_name.get(entry["pod"])]


def _survives_a_lost_node(gang, lost):
    def ranks_elsewhere():
        places = places_of_ranks(gang)
        return len(places) == 4 and lost not in places

    gang.wait_until(ranks_elsewhere, 90, "all ranks are on the other node")
    gang.wait_until(lambda: gang.events("SparePromoted"), 30, "a spare has taken a rank")
    known = max(gang.folder.glob("step-*"))
    gang.wait_until(lambda: max(gang.folder.glob("step-*")) > known, 30, "new steps")
    gang.wait_until(lambda: gang.events("RankLost"), 60, "the node is known to be lost")
    gang.wait_until(ranks_elsewhere, 60, "all ranks are on the other node")


def test_a_train_job_has_spares_by_its_runtime(gang):
    """Kubeflow's variables follow the ranks; the TrainJob completes."""
    runtime, job = yaml.safe_load_all((ROOT / "examples/training/numpy.yaml").read_text())
    [entry] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = entry["template"]["spec"]["template"]
    pod["metadata"] = {"annotations": {"kubarium.dev/spares": "1"}}
    pod["spec"]["containers"][0]["volumeMounts"] = [
        {"name": "checkpoints", "mountPath": "/checkpoints"}
    ]
    pod["spec"]["volumes"] = [{"name": "checkpoints", "hostPath": {"path": str(gang.folder)}}]
    job["spec"]["trainer"]["command"] = [
        *("python3", "-m", "kubarium.labs.ddp", "--steps", "900", "--step-time", "0.01"),
        *("--checkpoint-every", "25", "--checkpoint-dir", "/checkpoints"),
    ]
    job["spec"]["trainer"]["env"] = [{"name": "TEST_FOLDER", "value": str(gang.folder)}]
    for document in (runtime, job):
        gang.apply(document)
    gang.wait_until(lambda: list(gang.folder.glob("step-*")), 60, "a checkpoint")
    gang.wait_until(lambda: spares(gang) and waits(spares(gang)[0]), 30, "the spare is warm")
    launcher, _ = processes_of(gang, rank_pod(gang, 0))
    os.kill(launcher.pid, signal.SIGKILL)
    gang.wait_until(lambda: gang.events("SparePromoted"), 30, "a promotion")

    gang.wait_until(
        lambda: gang.has("Complete", "trainjob", "spirals"), 60, "the TrainJob completes"
    )


def test_a_plain_job_that_is_scaled_takes_its_gang_along(gang, uninterrupted):
    document = jobset(gang.folder, 2, 1200, {"kubarium.dev/min-ranks": "1"})
    [entry] = document["spec"]["replicatedJobs"]
    spec = entry["template"]["spec"] | {"completionMode": "Indexed"}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "plain"}, "spec": spec}
    gang.apply(job)
    gang.wait_until(lambda: len(list(gang.folder.glob("step-*"))) > 1, 60, "two checkpoints")
    for size in (4, 3):
        change = {"spec": {"completions": size, "parallelism": size}}
        gang.kubectl("patch", "job", "plain", "--type=merge", "-p", json.dumps(change))

        def all_train(size=size):
            found = gang.get("job", "plain")["metadata"]["annotations"]
            held = json.loads(found.get("kubarium.dev/gang", "{}"))
            return len(held.get("ranks", ())) == size and not held.get("untold")

        gang.wait_until(all_train, 30, f"{size} ranks train")

    gang.wait_until(lambda: gang.has("Complete", "job", "plain"), 60, "the Job completes")
    assert final_weights(gang) == uninterrupted(1200)
