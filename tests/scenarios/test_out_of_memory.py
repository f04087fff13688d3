"""One rank runs out of memory: it grows in place, and nobody else notices."""

import json

import pytest

from kubarium.node.runtimes.process.cgroups import Cgroups
from tests.conftest import ROOT, kubectls

EXAMPLE = ROOT / "examples" / "training" / "out-of-memory.yaml"

pytestmark = pytest.mark.skipif(not kubectls(), reason="needs kubectl")


@pytest.fixture(autouse=True)
def needs_memory_groups():
    groups = Cgroups.open("probe-out-of-memory")
    versions = {h.version for h in groups.hierarchies if "memory" in h.controllers}
    groups.close()
    if versions != {1}:
        pytest.skip("needs a writable memory controller of version 1, which can hold a group")


def test_a_surging_rank_grows_in_place_and_the_run_ends_with_the_same_weights(start_cluster):
    cluster = start_cluster()

    def finished():
        conditions = cluster.get("jobset", "surge").get("status", {}).get("conditions", ())
        return any(c["type"] == "Completed" and c["status"] == "True" for c in conditions)

    def last_line():
        log = cluster.kubectl("logs", "-l", "batch.kubernetes.io/job-completion-index=0")
        return json.loads(log.splitlines()[-1])

    cluster.kubectl("apply", "-f", str(EXAMPLE))
    cluster.wait_until(finished, 60, "the set completes")
    jobset = cluster.get("jobset", "surge")
    assert jobset["status"].get("restarts", 0) == 0
    events = cluster.get("events")["items"]
    grown = [e for e in events if e["reason"] == "MemoryGrown"]
    assert grown
    assert all("surge-workers-0-2" in e["involvedObject"]["name"] for e in grown)
    assert grown[0]["message"].startswith("rank 2 (pod surge-workers-0-2-")
    assert "limit grown from 96Mi to 144Mi in place" in grown[0]["message"]
    assert not [e for e in events if e["reason"] == "OOMKilling"]
    surged = last_line()
    assert surged["event"] == "done"
    cluster.kubectl("delete", "jobset", "surge", "--wait")
    calm = EXAMPLE.read_text().replace(', "--surge=2:100:120"', "")
    (cluster.home / "calm.yaml").write_text(calm)
    cluster.kubectl("apply", "-f", str(cluster.home / "calm.yaml"))
    cluster.wait_until(finished, 60, "the calm set completes")
    assert last_line() == surged
