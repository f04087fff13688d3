"""Events, traces and failure models in a cluster file; errors name line and field."""

from __future__ import annotations

import pytest

from kubarium.base.errors import ConfigError
from kubarium.cluster.file import read_cluster_file
from kubarium.cluster.nodes import node_configs
from kubarium.node.config import FailureModel, HealthEvent
from kubarium.node.drivers.profiles import devices_of

FILE = """
apiVersion: kubarium.dev/v1alpha1
kind: Cluster
spec:
  nodePools:
    - name: gpu
      count: 2
      runtime: simulated
      devices:
        - profile: nvidia
          count: 4
          failures: {{mtbf: 720h, mttr: 10m, health: xid-79, seed: 3}}
        - {{profile: nic, count: 4}}
    - name: plain
      runtime: simulated
  deviceHealth:
    {health}
"""


def read(tmp_path, health, **files):
    path = tmp_path / "cluster.yaml"
    path.write_text(FILE.format(health=health))
    for name, text in files.items():
        (tmp_path / name.replace("_", ".")).write_text(text)
    return read_cluster_file(path)


def test_events_reach_the_agent_of_their_nodes(tmp_path):
    file = read(
        tmp_path,
        "events: [{at: 10m, node: gpu-1, driver: gpu.nvidia.com, device: gpu-3, health: xid-79, "
        "for: 30s}, {at: 5, node: gpu-0, driver: dra.net, device: nic-0, health: Unhealthy, "
        "effect: NoExecute}]",
    )
    early = HealthEvent(5, "gpu-0", "dra.net", "nic-0", "Unhealthy", "NoExecute")
    late = HealthEvent(600, "gpu-1", "gpu.nvidia.com", "gpu-3", "xid-79", "", 30)
    assert file.health_events == (early, late)
    (config,) = node_configs(file, None, "", 0, "")
    assert config.health_events == (early, late)
    assert config.nodes[0].devices[0].failures == FailureModel(2592000, 600, "xid-79", "", 3)


TRACE = """at,node,driver,device,health,effect,for
90s,gpu-0,gpu.nvidia.com,gpu-0,gpu-lost,,1h
2m,gpu-1,gpu.nvidia.com,gpu-1,Healthy,,
"""
LINES = (
    '{"at": 90, "node": "gpu-0", "driver": "gpu.nvidia.com", "device": "gpu-0", '
    '"health": "gpu-lost", "for": "1h"}\n\n'
    '{"at": "2m", "node": "gpu-1", "driver": "gpu.nvidia.com", "device": "gpu-1", '
    '"health": "Healthy"}\n'
)


@pytest.mark.parametrize(("name", "text"), [("t_csv", TRACE), ("t_jsonl", LINES)])
def test_a_trace_is_read_from_either_format(tmp_path, name, text):
    file = read(tmp_path, f"trace: {name.replace('_', '.')}", **{name: text})
    assert file.health_events == (
        HealthEvent(90, "gpu-0", "gpu.nvidia.com", "gpu-0", "gpu-lost", "", 3600),
        HealthEvent(120, "gpu-1", "gpu.nvidia.com", "gpu-1", "Healthy"),
    )


GOOD = {
    "at": "1s",
    "node": "gpu-0",
    "driver": "gpu.nvidia.com",
    "device": "gpu-0",
    "health": "xid-79",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"at": "soon"}, "events[0].at: 'soon' is no duration"),
        ({"node": "gpu-7"}, "events[0].node: no node is called 'gpu-7'; did you mean 'gpu-"),
        ({"node": "plain-0"}, "events[0].node: plain-0 has no devices"),
        ({"driver": ""}, "events[0].driver: is missing; gpu-0 has gpu.nvidia.com, dra.net"),
        ({"driver": "x.y"}, "events[0].driver: 'x.y' has no devices on gpu-0"),
        ({"device": "gpu-4"}, "events[0].device: gpu-0 has no device 'gpu-4'; it has gpu-0, gpu-1"),
        ({"health": "ill"}, "events[0].health: 'ill' is no health"),
        ({"effect": "Maybe"}, "events[0].effect: 'Maybe' is not one of None, NoSchedule"),
        ({"for": "-1"}, "events[0].for: '-1' is no duration"),
    ],
)
def test_a_wrong_event_is_named_by_line_and_field(tmp_path, change, words):
    entry = GOOD | change
    inner = ", ".join(f"{key}: '{value}'" for key, value in entry.items())
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"events:\n      - {{{inner}}}")
    assert words in str(caught.value)
    assert "cluster.yaml:18:" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("at,node,device,helth\n", "t.csv:1: 'helth': no such column; did you mean 'health'?"),
        ("at,node,device\n", "t.csv:1: column 'health' is missing"),
        ("at,node,device,health\n1,gpu-0,gpu-0\n", "t.csv:2: health: is missing"),
        (TRACE + "x,gpu-0,gpu.nvidia.com,gpu-0,gpu-lost,,\n", "t.csv:4: at: 'x' is no duration"),
        (TRACE + "1,gpu-0,gpu.nvidia.com,gpu-0,gpu-lost,,,9\n", "t.csv:4: more values than col"),
        (TRACE + "1,gpu-0,gpu.nvidia.com,gpu-0,xid-1,Often,\n", "t.csv:4: effect: effect 'Often'"),
    ],
)
def test_a_wrong_line_of_a_trace_is_named(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "trace: t.csv", t_csv=text)
    assert words in str(caught.value)


def test_wrong_json_lines_and_missing_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"t\.jsonl:2: not valid JSON"):
        read(tmp_path, "trace: t.jsonl", t_jsonl="\n{at: 1}\n")
    with pytest.raises(ConfigError, match=r"t\.jsonl:1: 'nod': no such field; did you mean 'node'"):
        read(tmp_path, "trace: t.jsonl", t_jsonl='{"nod": "x"}')
    missing = r"cluster\.yaml:17: spec\.deviceHealth\.trace: .*gone\.csv: cannot be read"
    with pytest.raises(ConfigError, match=missing):
        read(tmp_path, "trace: gone.csv")
    with pytest.raises(ConfigError, match=r"a trace is a \.csv or a \.jsonl file"):
        read(tmp_path, "trace: t.yaml", t_yaml="")


def test_a_wrong_failure_model_is_named(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(FILE.format(health="events: []").replace("mttr: 10m", "mttr: never"))
    with pytest.raises(ConfigError, match=r"cluster\.yaml:12: .*failures\.mttr: 'never' is no dur"):
        read_cluster_file(path)


ROW = "gpu-0,gpu.nvidia.com,gpu-0,xid-79,,\n"
HEAD = "at,node,driver,device,health,effect,for\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            HEAD + "1,gpu-0,gpu.nvidia.com," + "x" * 200_000 + ",xid-79,,\n",
            "t.csv:2: not valid CSV",
        ),
        (HEAD + '1,gpu-0,gpu.nvidia.com,"gpu-0,xid-79,,\n', "t.csv:2: not valid CSV"),
        ("at," + HEAD + "1,2," + ROW, "t.csv:1: column 'at' stands there twice"),
        (
            HEAD + "1,gpu-0,gpu.nvidia.com,gpu-0,Healthy,NoExecute,\n",
            "what is Healthy has no taint",
        ),
        ("", "t.csv:1: column 'at' is missing"),
    ],
)
def test_a_malformed_table_is_no_traceback(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "trace: t.csv", t_csv=text)
    assert words in str(caught.value)


def test_a_trace_from_a_spreadsheet(tmp_path):
    text = "\ufeff" + (HEAD + "90s," + ROW).replace("\n", "\r\n")
    file = read(tmp_path, "trace: t.csv", t_csv=text)
    assert file.health_events == (HealthEvent(90, "gpu-0", "gpu.nvidia.com", "gpu-0", "xid-79"),)


def test_null_in_a_trace_is_as_good_as_nothing(tmp_path):
    line = '{"at": 1, "node": "gpu-0", "driver": "gpu.nvidia.com", "device": "gpu-0", '
    line += '"health": "gpu-lost", "effect": null, "for": null}\n'
    (event,) = read(tmp_path, "trace: t.jsonl", t_jsonl=line).health_events
    assert (event.effect, event.for_s) == ("", None)
    with pytest.raises(ConfigError, match=r"t\.jsonl:1: health: is missing"):
        read(tmp_path, "trace: t.jsonl", t_jsonl=line.replace('"gpu-lost"', "null"))


def test_only_line_feeds_end_a_line_of_json(tmp_path):
    text = LINES.replace("gpu-lost", "gpu\u2028lost")
    with pytest.raises(ConfigError, match=r"t\.jsonl:1: health: 'gpu.u2028lost' is no health"):
        read(tmp_path, "trace: t.jsonl", t_jsonl=text)


def test_what_is_healthy_is_no_failure(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(FILE.format(health="events: []").replace("health: xid-79", "health: Healthy"))
    with pytest.raises(ConfigError, match=r"failures\.health: 'Healthy' is no failure"):
        read_cluster_file(path)


def test_a_long_trace_does_not_describe_all_devices_for_each_event(tmp_path, monkeypatch):
    asked = []

    def counted(config, node, count):
        asked.append(node)
        return devices_of(config, node, count)

    monkeypatch.setattr("kubarium.cluster.device_health.devices_of", counted)
    text = HEAD + "".join(f"{at},{ROW}" for at in range(200))
    assert len(read(tmp_path, "trace: t.csv", t_csv=text).health_events) == 200
    assert len(asked) == 1
