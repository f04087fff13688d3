"""A served cluster comes up, and goes without a trace: record, context, processes."""

import contextlib
import os
import signal
import subprocess
import sys

import psutil
import yaml

from kubarium.cluster.state import StateDirectory


def test_an_interrupted_foreground_server_takes_its_context_along(tmp_path):
    config = tmp_path / "config"
    environment = os.environ | {"KUBARIUM_HOME": str(tmp_path), "KUBECONFIG": str(config)}
    command = [sys.executable, "-m", "kubarium.cli.main", "up", "--simulated"]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with server.stdout:
        assert "is up at https://127.0.0.1:" in server.stdout.readline()
        assert yaml.safe_load(config.read_text())["current-context"] == "kubarium"
        assert StateDirectory("kubarium", tmp_path).read_record()
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
    assert yaml.safe_load(config.read_text())["contexts"] == []
    assert not StateDirectory("kubarium", tmp_path).record.exists()


MANY = """
apiVersion: kubarium.dev/v1alpha1
kind: Cluster
spec:
  nodePools:
  - name: node
    count: 5000
    runtime: simulated
    devices: [{profile: nvidia, model: H100, count: 8}]
"""


def test_a_server_that_is_not_ready_goes_with_who_waits_for_it(tmp_path):
    (tmp_path / "cluster.yaml").write_text(MANY)
    environment = os.environ | {
        "KUBARIUM_HOME": str(tmp_path),
        "KUBECONFIG": str(tmp_path / "config"),
    }
    file = str(tmp_path / "cluster.yaml")
    command = [sys.executable, "-m", "kubarium.cli.main", "up", "--detach", "-f", file]
    waiting = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    log = StateDirectory("kubarium", tmp_path).log
    while not log.exists():  # the server has become a session of its own
        assert waiting.poll() is None
    [server] = psutil.Process(waiting.pid).children()
    waiting.send_signal(signal.SIGINT)
    try:
        assert waiting.wait(20) != 0
        server.wait(20)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            server.kill()
    assert not StateDirectory("kubarium", tmp_path).record.exists()


GRACEFUL = """
apiVersion: kubarium.dev/v1alpha1
kind: Cluster
spec:
  nodePools:
  - {name: node, count: 1, runtime: simulated, kubelet: {shutdownGracePeriod: 60s}}
"""


def test_ctrl_c_lets_nodes_shut_down_and_another_one_does_not_wait_for_it(tmp_path):
    """A simulated pod heeds SIGTERM at once, so that the first ends by itself; one that is told
    again ends no matter what."""
    (tmp_path / "cluster.yaml").write_text(GRACEFUL)
    environment = os.environ | {
        "KUBARIUM_HOME": str(tmp_path),
        "KUBECONFIG": str(tmp_path / "config"),
    }
    described = str(tmp_path / "cluster.yaml")
    command = [sys.executable, "-m", "kubarium.cli.main", "up", "-f", described]
    for more in (0, 1):
        server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        with server.stdout:
            while "Ctrl-C stops it" not in server.stdout.readline():
                continue
            server.send_signal(signal.SIGINT)
            assert "pods have up to 62 s; Ctrl-C again" in server.stdout.readline()
            for _ in range(more):
                server.send_signal(signal.SIGINT)
            assert server.wait(20) == 0
        assert not StateDirectory("kubarium", tmp_path).record.exists()
