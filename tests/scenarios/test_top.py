"""`kubectl top`: what processes use, seen from outside."""

import pytest

from tests.conftest import kubectls

pytestmark = [pytest.mark.kubectl, pytest.mark.timeout(120)]

SPIN = "import time\nb = bytearray(40 << 20)\nwhile True: pass"


def milli(row: str) -> int:
    return int(row.split()[1].removesuffix("m"))


def mebi(row: str) -> int:
    return int(row.split()[2].removesuffix("Mi"))


def test_top_tells_the_busy_from_the_idle(start_cluster):
    if not kubectls():
        pytest.skip("no kubectl on PATH")
    cluster = start_cluster()
    cluster.kubectl("run", "busy", "--image=python", "--", "python3", "-c", SPIN)
    cluster.kubectl("run", "idle", "--image=busybox", "--", "sleep", "1000")
    cluster.kubectl("wait", "--for=condition=Ready", "pod/busy", "pod/idle", "--timeout=60s")

    def rows(*arguments):
        lines = cluster.kubectl("top", *arguments, "--no-headers", check=False).splitlines()
        return {line.split()[0]: line for line in lines}

    def both():
        found = rows("pods")
        return found if {"busy", "idle"} <= set(found) and mebi(found["busy"]) >= 40 else None

    found = cluster.wait_until(both, 20, "both pods are measured")
    assert milli(found["idle"]) < 20 < milli(found["busy"])
    assert mebi(found["idle"]) < 20
    nodes = rows("nodes")
    assert set(nodes) == {"node-0", "node-1"}
    assert sum(milli(row) for row in nodes.values()) > 20
    (row,) = rows("pods", "--containers", "-l", "run=busy").values()
    assert row.split()[:2] == ["busy", "busy"]
