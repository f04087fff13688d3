"""Whatever stands in a cluster file: it is read, or the complaint names line, field and value."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubarium.base.errors import ConfigError
from kubarium.cluster.file import read_cluster_file
from kubarium.cluster.nodes import node_configs
from tests.view.test_odd_scheduling import ODD, PLAIN, mutated

EXAMPLES = Path(__file__).parents[2] / "examples" / "cluster"

CLUSTER = {
    "apiVersion": "kubarium.dev/v1alpha1",
    "kind": "Cluster",
    "metadata": {"name": "lab"},
    "spec": {
        "schedulerConfig": PLAIN,
        "images": {"app:*": {"like": "busybox"}, "tool": {"cmd": ["true"]}},
        "deviceHealth": {
            "events": [
                {
                    "at": "10s",
                    "node": "gpu-0",
                    "driver": "gpu.example.com",
                    "device": "gpu-0",
                    "health": "Unhealthy",
                }
            ]
        },
        "nodePools": [
            {
                "name": "gpu",
                "count": 3,
                "runtime": "simulated",
                "capacity": {"cpu": 4, "memory": "8Gi", "example.com/foo": 2},
                "labels": {"tier": "gpu-{index}"},
                "topology": {"topology.kubernetes.io/zone": ["a", "b"]},
                "taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}],
                "kubelet": {
                    "evictionHard": {"memory.available": "100Mi"},
                    "evictionSoft": {"memory.available": "10%"},
                    "evictionSoftGracePeriod": {"memory.available": "30s"},
                    "evictionPressureTransitionPeriod": "30s",
                    "imageGCHighThresholdPercent": 90,
                    "podPidsLimit": 100,
                    "allowedUnsafeSysctls": ["net.core.*"],
                    "shutdownGracePeriod": "30s",
                    "shutdownGracePeriodCriticalPods": "10s",
                    "staticPodPath": "pods",
                },
                "devices": [
                    {
                        "profile": "gpu.example.com",
                        "count": 5,
                        "partitions": 2,
                        "deviceClass": "gpu",
                        "extendedResourceName": "example.com/gpu",
                        "failures": {"mtbf": "1h", "mttr": "5m", "effect": "NoSchedule", "seed": 1},
                    },
                    {
                        "profile": "free",
                        "driver": "own.example.com",
                        "name": "thing",
                        "attributes": {"kind": {"string": "a"}, "index": {"int": 3}},
                        "capacity": {"memory": "1Gi"},
                    },
                ],
            },
            {"name": "plain"},
        ],
    },
}
KIND = {
    "apiVersion": "kind.x-k8s.io/v1alpha4",
    "kind": "Cluster",
    "name": "kind",
    "nodes": [{"role": "control-plane"}, {"role": "worker", "labels": {"a": "b"}}],
}

KIND_HEAD = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n"


def complaint(path):
    """What is said of the file; "" if it is read and nodes can be made of it."""
    try:
        file = read_cluster_file(path)
    except ConfigError as error:
        return str(error)
    node_configs(file, path.parent, "127.0.0.1", 6443, "")
    return ""


def test_the_plain_files_are_read(tmp_path):
    for document in (CLUSTER, KIND):
        path = tmp_path / "cluster.yaml"
        path.write_text(yaml.safe_dump(document))
        assert complaint(path) == ""


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_read(path):
    assert complaint(path) == ""


def test_devices_of_ones_own_are_named_by_a_pattern(tmp_path):
    devices = {
        "profile": "free",
        "driver": "gpu.example.com",
        "name": "{node}-gpu-{index}",
        "attributes": {"uuid": {"string": "{uuid}"}, "slot": {"int": 1}},
        "capacity": {"memory": "80Gi", "slices": 7},
    }
    pool = {"name": "a", "devices": [devices]}
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump({**CLUSTER, "spec": {"nodePools": [pool]}}))
    assert complaint(path) == ""
    devices["name"] = "GPU {index}"
    path.write_text(yaml.safe_dump({**CLUSTER, "spec": {"nodePools": [pool]}}))
    assert "devices[0].name: 'GPU 0'" in complaint(path)


@st.composite
def files(draw):
    odd = (*(value for value in ODD if not isinstance(value, bytes)), 20001, "{index", "-", "1e400")
    return mutated(draw, draw(st.sampled_from([CLUSTER, CLUSTER, CLUSTER, KIND])), odd)


@settings(
    max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(document=files())
def test_it_is_read_or_the_field_is_named(tmp_path, document):
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(document))
    told = complaint(path)
    if told:
        assert told.startswith(f"{path}"), told
        assert len(told) < len(str(path)) + 900, "a value that is far too long is cut"
        told.encode()  # so that it can be printed
        assert "Traceback" not in told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "---\n---\n",
        "null",
        "- a",
        "a: [",
        "a: &x [*x]",
        "&x {a: *x}",
        "a: !!python/object:os.system {}",
        "a: !unknown b",
        "? [a, b]\n: c",
        "? {a: b}\n: c",
        "a: 1\na: 2",
        "<<: {a: b}\nkind: Cluster",
        "<<: 3",
        f"apiVersion: {'9' * 5000}",
        f"a: {'[' * 2000}{']' * 2000}",
        "a: 0x",
        "a: 2026-13-45",
        "a: !!int b",
        "a: !!timestamp b",
        "a: !!binary '?'",
        "a: \x07",
        "\ufeffkind: Cluster",
        "a: '\\ud800'",
        'a: "\\ud800"',
        "kind: Cluster\napiVersion: [kubarium.dev/v1alpha1]",
        f"{KIND_HEAD}nodes: 3",
        f"{KIND_HEAD}nodes: [3]",
        f"{KIND_HEAD}nodes: {{}}",
        f"{KIND_HEAD}name: [a]\nnodes: [{{role: worker, labels: 3}}]",
        f"{KIND_HEAD}name: A B\nnodes: [{{role: [worker]}}]",
        f"{KIND_HEAD}nodes: [{{role: worker, labels: {{a b: c d}}}}]",
        "a: " + "&a " * 3 + "b",
        "l0: &l0 [x]\n" + "".join(f"l{i}: &l{i} [{f'*l{i - 1}, ' * 9}x]\n" for i in range(1, 9)),
    ],
)
def test_strange_yaml_is_refused_in_words(tmp_path, text):
    path = tmp_path / "cluster.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    told = complaint(path)
    assert told.startswith(f"{path}")
    assert len(told) < len(str(path)) + 900


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": {"a b": "c"}}, ["labels.a b", "'a b'", "name part must consist of"]),
        ({"labels": {"a": "b c"}}, ["labels.a", "'b c'", "valid label"]),
        ({"topology": {"zone": ["z", "z z"]}}, ["topology.zone[1]", "'z z'"]),
        ({"taints": [{"key": "a b", "effect": "NoSchedule"}]}, ["taints[0]", "'a b'"]),
        ({"capacity": {"cpu": -4}}, ["capacity.cpu", "-4 is less than 0"]),
        ({"capacity": {"a b": 1}}, ["capacity.a b", "'a b'"]),
        ({"capacity": {"a.b/gpu": 1.5}}, ["capacity.a.b/gpu", "1.5 must be an integer"]),
        ({"capacity": {"pods": "1500m"}}, ["capacity.pods", "'1500m' must be an integer"]),
        ({"devices": [{"profile": "nic", "deviceClass": "A B"}]}, ["devices[0].deviceClass"]),
        (
            {"devices": [{"profile": "free", "attributes": {"a b": {"int": 1}}}]},
            ["devices[0].attributes.a b", "C identifier"],
        ),
        (
            {"devices": [{"profile": "free", "attributes": {"a": {"string": "x" * 65}}}]},
            ["devices[0].attributes.a", "longer than 64 characters"],
        ),
        ({"devices": [{"profile": "free", "capacity": {"m": "-1Gi"}}]}, ["'-1Gi' is less than 0"]),
        ({"devices": [{"profile": "free", "count": 2}]}, ["devices[0]", "needs a driver"]),
        (
            {"devices": [{"profile": "free", "driver": "d", "count": 2, "name": "gpu"}]},
            ["devices[0].name", "all 2 devices would be 'gpu'; write 'gpu-{index}'"],
        ),
    ],
)
def test_what_the_api_would_refuse_later_is_refused_at_once(tmp_path, change, words):
    """Nodes that cannot be announced would be waited for in vain."""
    pool = {"name": "n", "runtime": "simulated", **change}
    document = {"apiVersion": "kubarium.dev/v1alpha1", "kind": "Cluster"}
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump({**document, "spec": {"nodePools": [pool]}}))
    told = complaint(path)
    for word in ("spec.nodePools[0].", *words):
        assert word in told
