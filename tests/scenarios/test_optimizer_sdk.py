"""Kubeflow's OptimizerClient, unmodified: hyperparameters are searched with real TrainJobs."""

import json

import pytest

SDK = "0.5.0"
optimizer = pytest.importorskip("kubeflow.optimizer", reason=f"needs kubeflow=={SDK}")
kubeflow = pytest.importorskip("kubeflow.trainer", reason=f"needs kubeflow=={SDK}")
pytestmark = [
    pytest.mark.timeout(400),
    # The SDK's thread pools and sockets are closed by nobody.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


# Ranks of plain Python, which are not tried again.
RUNTIME = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1",
    "kind": "ClusterTrainingRuntime",
    "metadata": {"name": "plain", "labels": {"trainer.kubeflow.org/framework": "jax"}},
    "spec": {
        "mlPolicy": {"numNodes": 1, "jax": {}},
        "template": {
            "spec": {
                "replicatedJobs": [
                    {
                        "name": "node",
                        "template": {
                            "metadata": {
                                "labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
                            },
                            "spec": {
                                "backoffLimit": 0,
                                "template": {
                                    "spec": {
                                        "restartPolicy": "Never",
                                        "containers": [{"name": "node", "image": "kubarium/labs"}],
                                    }
                                },
                            },
                        },
                    }
                ]
            }
        },
    },
}


@pytest.fixture
def cluster(start_cluster):
    cluster = start_cluster("--in-memory")
    (cluster.home / "runtime.json").write_text(json.dumps(RUNTIME))
    cluster.kubectl("apply", "-f", str(cluster.home / "runtime.json"))
    return cluster


@pytest.fixture
def client(cluster):
    config = kubeflow.KubernetesBackendConfig(
        namespace="default", config_file=str(cluster.kubeconfig)
    )
    return optimizer.OptimizerClient(config)


def train(lr, layers):
    value = abs(float(lr) - 0.3) + int(layers)
    for step in range(3):
        print(f"step={step} loss={value + 2 - step} accuracy={step / 10}", flush=True)


def fail(lr):
    raise SystemExit(3)


def template(function, nodes=1):
    trainer = kubeflow.CustomTrainer(func=function, num_nodes=nodes)
    return kubeflow.TrainJobTemplate(runtime="plain", trainer=trainer)


def test_a_search_finds_the_best_of_its_trials(client, cluster):
    name = client.optimize(
        template(train),
        search_space={
            "lr": optimizer.Search.uniform(0.1, 0.9),
            "layers": optimizer.Search.choice([1, 2, 3]),
        },
        objectives=[
            optimizer.Objective(metric="loss"),
            optimizer.Objective(metric="accuracy"),
        ],
        algorithm=optimizer.RandomSearch(random_state=5),
        trial_config=optimizer.TrialConfig(num_trials=5, parallel_trials=2),
    )
    job = client.wait_for_job_status(name, {"Running", "Complete"}, timeout=60, polling_interval=1)
    job = client.wait_for_job_status(name, timeout=60, polling_interval=1)
    assert job.status == "Complete"
    assert len(job.trials) == 5
    assert {t.trainjob.status for t in job.trials} == {"Complete"}
    losses = {}
    for trial in job.trials:
        [loss] = [m for m in trial.metrics if m.name == "loss"]
        wanted = abs(float(trial.parameters["lr"]) - 0.3) + int(trial.parameters["layers"])
        assert float(loss.latest) == pytest.approx(wanted)
        assert float(loss.min) == pytest.approx(wanted)
        assert float(loss.max) == pytest.approx(wanted + 2)
        losses[trial.name] = wanted
    best = client.get_best_results(name)
    [loss] = [m for m in best.metrics if m.name == "loss"]
    assert float(loss.min) == pytest.approx(min(losses.values()))
    lines = list(client.get_job_logs(name))
    assert any("loss=" in line for line in lines)
    events = client.get_job_events(name)
    assert "ExperimentMaxTrialsReached" in {event.reason for event in events}
    assert [j.name for j in client.list_jobs()] == [name]
    printed = cluster.kubectl("get", "experiment", name)
    assert printed.split()[5:7] == ["Succeeded", "True"]
    client.delete_job(name)
    cluster.wait_until(lambda: not cluster.get("trainjobs")["items"], 30, "its TrainJobs are gone")
    assert client.list_jobs() == []


def test_trials_that_fail_fail_the_search(client):
    name = client.optimize(
        template(fail),
        search_space={"lr": optimizer.Search.loguniform(1e-4, 1)},
        objectives=[optimizer.Objective(metric="loss")],
        trial_config=optimizer.TrialConfig(num_trials=4, parallel_trials=2, max_failed_trials=2),
    )
    job = client.wait_for_job_status(name, {"Failed"}, timeout=60, polling_interval=1)
    assert job.status == "Failed"
    assert client.get_best_results(name) is None


def test_a_grid_ends_when_it_has_been_walked(client):
    name = client.optimize(
        template(train),
        search_space={
            "lr": optimizer.Search.choice([0.3]),
            "layers": optimizer.Search.choice([2, 1]),
        },
        objectives=[optimizer.Objective(metric="loss")],
        algorithm=optimizer.GridSearch(),
        trial_config=optimizer.TrialConfig(num_trials=9, parallel_trials=3),
    )
    job = client.wait_for_job_status(name, timeout=60, polling_interval=1)
    assert len(job.trials) == 2
    assert client.get_best_results(name).parameters == {"lr": "0.3", "layers": "1"}
