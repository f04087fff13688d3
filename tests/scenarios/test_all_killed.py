"""Server, agent and zygote are killed at once: `kubarium down` still leaves nothing behind."""

import json
from pathlib import Path

import psutil
import pytest

from tests.conftest import kubectls

pytestmark = [pytest.mark.kubectl, pytest.mark.timeout(120)]


def test_control_groups_go_though_nobody_is_left_to_remove_them(start_cluster):
    if not kubectls():
        pytest.skip("no kubectl on PATH")
    cluster = start_cluster()
    cluster.kubectl("run", "a", "--image=busybox", "--", "sleep", "1000")
    cluster.kubectl("wait", "--for=condition=Ready", "pod/a", "--timeout=60s")
    (note,) = cluster.home.rglob("groups.json")
    groups = [Path(folder) for folder in json.loads(note.read_text())]
    if not groups:
        pytest.skip("no control group may be written here")
    mine = [p for p in psutil.process_iter(["environ", "cmdline"]) if is_of(p, cluster.home)]
    assert mine
    for process in mine:
        process.kill()
    psutil.wait_procs(mine, 10)
    assert any(group.exists() for group in groups), "the zygote was killed too"
    cluster.kubarium("down")
    assert not any(group.exists() for group in groups)


def is_of(process: psutil.Process, home: Path) -> bool:
    """The server, its agent, and the zygote that the agent has started."""
    environment = process.info["environ"] or {}
    return environment.get("KUBARIUM_HOME") == str(home)
