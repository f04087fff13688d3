"""The example of a search, as a user applies it, and the endpoint that clusters publish."""

import pytest

from tests.conftest import ROOT, kubectls

pytestmark = pytest.mark.skipif(not kubectls(), reason="needs kubectl")


def test_the_example_finds_the_best_learning_rate(start_cluster):
    cluster = start_cluster("--in-memory")
    cluster.kubectl("apply", "-f", str(ROOT / "examples/training/search.yaml"))

    def result():
        status = cluster.get("optimizationjob", "search").get("status", {})
        ended = {c["type"]: c["message"] for c in status.get("conditions", ())}
        assert "Failed" not in ended, ended
        return status if "Complete" in ended else None

    status = cluster.wait_until(result, 60, "the search is over")
    assert status["result"]["parameters"] == [{"name": "lr", "value": "0.5"}]
    jobs = cluster.get("trainjobs")["items"]
    assert len(jobs) == 3
    best = status["result"]["trainJobName"]
    log = cluster.kubectl("logs", "-l", f"katib.kubeflow.org/trial={best}", "--tail=-1")
    assert "step=19 loss=0.000000" in log


def test_the_api_servers_endpoint_is_published(start_cluster):
    cluster = start_cluster("--in-memory")
    server = cluster.kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}")
    address = server.removeprefix("https://")
    assert address in cluster.kubectl("get", "endpoints", "kubernetes")
    found = cluster.get("endpointslice", "kubernetes")
    assert found["metadata"]["labels"]["kubernetes.io/service-name"] == "kubernetes"
    assert f"{found['endpoints'][0]['addresses'][0]}:{found['ports'][0]['port']}" == address
