"""A served cluster comes up, and goes without a trace: record, context, processes."""

import os
import signal
import subprocess
import sys

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
