"""Metrics in what a program prints."""

import pytest

from kubarium.node.training.metrics import MetricsReader, Readings


def test_the_latest_least_and_greatest_of_each_metric_are_kept():
    readings = Readings(["loss", "val-acc"])
    for line in ("loss=0.9 val-acc=0.1", "noise", "epoch 2: loss = 0.4, val-acc=.5", "loss=6e-1"):
        readings.feed(line)
    assert readings.values == {
        "loss": {"latest": "6e-1", "min": "0.4", "max": "0.9"},
        "val-acc": {"latest": ".5", "min": "0.1", "max": ".5"},
    }


@pytest.mark.parametrize("line", ["loss=", "loss=nan", "loss=inf", "lossy=1", "loss: 1", "loss=-"])
def test_what_is_no_number_of_a_metric_is_passed_over(line):
    readings = Readings(["loss"])
    assert not readings.feed(line)
    assert readings.values == {}


class Outputs:
    def __init__(self, folder):
        self.folder, self.notes, self.path = folder, [], None

    def log_path(self, uid, name):
        return self.path

    def note(self, uid, kind, reason, message):
        self.notes.append(message)

    def write(self, name, *lines):
        self.path = self.folder / name
        with self.path.open("a") as file:
            file.writelines(f"2026-01-01T00:00:00Z stdout F {line}\n" for line in lines)


def test_output_is_followed_over_restarts_and_rotations(tmp_path):
    outputs = Outputs(tmp_path)
    reader = MetricsReader(None, outputs)
    annotations = {"kubarium.dev/metrics": "loss"}
    pod = {
        "metadata": {"uid": "u", "annotations": annotations},
        "spec": {"containers": [{"name": "main"}]},
    }
    reader.look(pod)
    reader.read("u")
    outputs.write("0.log", "loss=3")
    reader.read("u")
    reader.read("u")
    assert outputs.notes == ['{"loss":{"latest":"3","min":"3","max":"3"}}']
    outputs.write("0.log", "loss=2")
    (tmp_path / "0.log").rename(tmp_path / "0.log.old")
    outputs.write("0.log", "loss=1")
    reader.read("u")
    assert '"latest":"1","min":"1"' in outputs.notes[-1]
    outputs.write("1.log", "loss=4")
    reader.read("u")
    assert outputs.notes[-1] == '{"loss":{"latest":"4","min":"1","max":"4"}}'
    reader.drop("u")
