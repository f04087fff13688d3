"""``kubectl get`` shows what upstream's printers show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.catalog import Catalog, PrinterColumn
from kubarium.api.crds import bundled, kinds_of
from kubarium.api.tables import table
from kubarium.api.tables.durations import human, since
from kubarium.api.tables.jsonpath import JsonPathError, compile_path, first_match
from kubarium.api.tables.pods import pod_status
from kubarium.base.clock import rfc3339

NOW = 1_800_000_000.0
CATALOG = Catalog.builtin()


def ago(seconds: float) -> str:
    return rfc3339(NOW - seconds)


def show(group: str, version: str, plural: str, document, wide: bool = False) -> dict:
    """Cells by column name, the wide ones only if asked for."""
    kind = CATALOG.lookup(group, version, plural)
    document.setdefault("metadata", {}).setdefault("name", "x")
    document["metadata"].setdefault("creationTimestamp", ago(90))
    shown = table(kind, [document], NOW)
    columns = shown["columnDefinitions"]
    cells = zip(columns, shown["rows"][0]["cells"], strict=True)
    return {c["name"]: cell for c, cell in cells if wide or not c["priority"]}


def pod(*states, init=(), phase="Running", spec=None, **status) -> dict:
    names = [f"c{i}" for i in range(len(states))]
    return {
        "metadata": {"name": "p", "creationTimestamp": ago(90)},
        "spec": {
            "containers": [{"name": name} for name in names],
            "initContainers": [{"name": f"i{i}"} for i in range(len(init))],
            **(spec or {}),
        },
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": n, **s} for n, s in zip(names, states, strict=True)],
            "initContainerStatuses": [{"name": f"i{i}", **s} for i, s in enumerate(init)],
            **status,
        },
    }


RUNNING = {"ready": True, "state": {"running": {}}, "started": True}
DONE = {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
WAITING = {"state": {"waiting": {"reason": "PodInitializing"}}}


def crashed(reason="Error", **more) -> dict:
    return {"state": {"terminated": {"exitCode": 1, "reason": reason, **more}}}


def waiting(reason: str, **more) -> dict:
    return {"state": {"waiting": {"reason": reason}}, **more}


GATED = [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]
READY = [{"type": "Ready", "status": "True"}]


@pytest.mark.parametrize(
    ("document", "status"),
    [
        (pod(phase="Pending"), "Pending"),
        (pod(phase="Pending", conditions=GATED), "SchedulingGated"),
        (pod(RUNNING), "Running"),
        (pod(waiting("ContainerCreating"), phase="Pending"), "ContainerCreating"),
        (pod(waiting("CrashLoopBackOff")), "CrashLoopBackOff"),
        (pod(crashed()), "Error"),
        (pod(crashed("OOMKilled")), "OOMKilled"),
        (pod(crashed("")), "ExitCode:1"),
        (pod(crashed("", signal=9)), "Signal:9"),
        (pod(DONE, phase="Succeeded"), "Completed"),
        (pod(DONE, RUNNING), "NotReady"),
        (pod(DONE, RUNNING, conditions=READY), "Running"),
        (pod(WAITING, init=[WAITING], phase="Pending"), "Init:0/1"),
        (pod(WAITING, init=[DONE, RUNNING], phase="Pending"), "Init:1/2"),
        (pod(WAITING, init=[crashed()], phase="Pending"), "Init:Error"),
        (pod(WAITING, init=[waiting("CrashLoopBackOff")]), "Init:CrashLoopBackOff"),
        (pod(RUNNING, init=[DONE]), "Running"),
        (pod(phase="Failed", reason="Evicted"), "Evicted"),
    ],
)
def test_a_pods_status_is_what_its_containers_say(document, status):
    assert pod_status(document) == status


def test_a_dying_pod_is_terminating_until_it_is_done():
    dying = pod(RUNNING)
    dying["metadata"]["deletionTimestamp"] = ago(1)
    assert pod_status(dying) == "Terminating"
    done = pod(DONE, phase="Succeeded")
    done["metadata"]["deletionTimestamp"] = ago(1)
    assert pod_status(done) == "Completed"


def test_restarts_say_when_the_last_one_was():
    last = {"terminated": {"finishedAt": ago(300)}}
    cells = show("", "v1", "pods", pod(RUNNING | {"restartCount": 3, "lastState": last}))
    assert cells == {
        "Name": "p",
        "Ready": "1/1",
        "Status": "Running",
        "Restarts": "3 (5m ago)",
        "Age": "90s",
    }


def test_a_sidecar_counts_as_a_container():
    document = pod(RUNNING, init=[RUNNING])
    document["spec"]["initContainers"][0]["restartPolicy"] = "Always"
    assert show("", "v1", "pods", document)["Ready"] == "2/2"


def test_wide_pods_show_address_and_node():
    cells = show("", "v1", "pods", pod(RUNNING, podIP="10.0.0.1"), wide=True)
    assert (cells["IP"], cells["Node"], cells["Nominated Node"]) == ("10.0.0.1", "<none>", "<none>")


def test_nodes_show_status_and_roles():
    node = {
        "metadata": {"labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "x"}},
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "v1.37.0"},
        },
    }
    cells = show("", "v1", "nodes", node)
    assert cells["Status"] == "Ready,SchedulingDisabled"
    assert (cells["Roles"], cells["Version"]) == ("worker,x", "v1.37.0")


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        ({"completions": 3}, {"succeeded": 1}, ("Running", "1/3", "")),
        ({"completions": 1},
         {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1,
          "startTime": ago(100), "completionTime": ago(60)},
         ("Complete", "1/1", "40s")),
        ({"parallelism": 2}, {"startTime": ago(5)}, ("Running", "0/1 of 2", "5s")),
        ({"completions": 1}, {"conditions": [{"type": "Suspended", "status": "True"}]},
         ("Suspended", "0/1", "")),
    ],
)  # fmt: skip
def test_jobs_show_status_completions_and_duration(spec, status, expected):
    cells = show("batch", "v1", "jobs", {"spec": spec, "status": status})
    assert (cells["Status"], cells["Completions"], cells["Duration"]) == expected


def test_deployments_count_ready_of_wanted():
    cells = show(
        "apps", "v1", "deployments", {"spec": {"replicas": 3}, "status": {"readyReplicas": 2}}
    )
    assert (cells["Ready"], cells["Up-to-date"], cells["Available"]) == ("2/3", 0, 0)


def test_services_show_ports_and_pending_balancers():
    spec = {
        "type": "LoadBalancer",
        "clusterIP": "10.1.1.1",
        "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}],
    }
    cells = show("", "v1", "services", {"spec": spec})
    assert (cells["External-IP"], cells["Port(s)"]) == ("<pending>", "80:30000/TCP")


def test_events_prefer_their_series():
    event = {
        "involvedObject": {"kind": "Pod", "name": "p"},
        "eventTime": ago(100),
        "series": {"count": 4, "lastObservedTime": ago(7)},
        "reason": "R",
        "type": "Warning",
        "message": "text\n",
    }
    cells = show("", "v1", "events", event, wide=True)
    assert (cells["Last Seen"], cells["First Seen"], cells["Count"]) == ("7s", "100s", 4)
    assert (cells["Object"], cells["Message"]) == ("pod/p", "text")


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({}, "pending"),
        ({"allocation": {"devices": {}}}, "allocated"),
        ({"allocation": {"devices": {}}, "reservedFor": [{}]}, "allocated,reserved"),
    ],
)
def test_claims_show_their_state(status, state):
    cells = show("resource.k8s.io", "v1", "resourceclaims", {"status": status})
    assert cells["State"] == state


def test_rows_carry_metadata_objects_or_nothing():
    kind = CATALOG.lookup("", "v1", "configmaps")
    document = {"metadata": {"name": "c"}, "data": {"a": "b"}}
    assert table(kind, [document], NOW)["rows"][0]["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": "c"},
    }
    assert table(kind, [document], NOW, None, "Object")["rows"][0]["object"] is document
    assert "object" not in table(kind, [document], NOW, None, "None")["rows"][0]


# --- custom columns ------------------------------------------------------------------------------


def test_kueue_workloads_show_the_columns_of_their_definition():
    kinds = [kind for crd in bundled() for kind in kinds_of(crd)]
    workload = next(kind for kind in kinds if kind.resource.kind == "Workload")
    document = {
        "metadata": {"name": "w", "creationTimestamp": ago(30)},
        "spec": {"queueName": "q"},
        "status": {
            "admission": {"clusterQueue": "cq"},
            "conditions": [{"type": "Admitted", "status": "True"}],
        },
    }
    shown = table(workload, [document], NOW)
    names = [column["name"] for column in shown["columnDefinitions"]]
    cells = dict(zip(names, shown["rows"][0]["cells"], strict=True))
    assert cells == {
        "Name": "w",
        "Queue": "q",
        "Reserved in": "cq",
        "Admitted": "True",
        "Finished": None,
        "Age": "30s",
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (".a.b", 1),
        ("{.a.b}", 1),
        ("$.a.b", 1),
        (".l[1].n", "y"),
        (".l[-1].n", "y"),
        (".l[*].n", "x"),
        (".l[-1:].n", "y"),
        (".l[0:1].v", 1),
        ('.l[?(@.n=="y")].v', 2),
        (".l[?(@.v>1)].n", "y"),
        ('.l[?(@.n!="x")].n', "y"),
        (".l[?(@.w)].n", None),
        (".m.app\\.kubernetes\\.io/name", "z"),
        (".m['app.kubernetes.io/name']", "z"),
        (".nothing.here", None),
    ],
)
def test_json_paths_lead_to_the_first_match(path, value):
    document = {
        "a": {"b": 1},
        "l": [{"n": "x", "v": 1}, {"n": "y", "v": 2}],
        "m": {"app.kubernetes.io/name": "z"},
    }
    assert first_match(path, document) == (value is not None, value)


@given(st.text(alphabet=".[]?()@='\"a1*<>", max_size=20))
def test_any_json_path_is_compiled_or_refused(path):
    try:
        compile_path(path)
    except JsonPathError:
        assert first_match(path, {"a": 1}) == (False, None)


def test_a_cell_of_another_type_than_its_column_stays_empty():
    kind = next(k for crd in bundled() for k in kinds_of(crd) if k.resource.kind == "Topology")
    columns = (PrinterColumn("N", "integer", ".spec.n"), PrinterColumn("B", "boolean", ".spec.b"))
    odd = {"metadata": {"name": "x"}, "spec": {"n": "many", "b": True}}
    shown = table(_with_columns(kind, columns), [odd], NOW)
    assert shown["rows"][0]["cells"] == ["x", None, True]


def _with_columns(kind, columns):
    fields = {name: getattr(kind, name) for name in kind.__dataclass_fields__}
    return type(kind)(**fields | {"columns": columns})


# --- durations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600 + 60, "8h"),
        (48 * 3600, "2d"),
        (49 * 3600, "2d1h"),
        (8 * 86400 + 3600, "8d"),
        (2 * 365 * 86400, "2y"),
        (2 * 365 * 86400 + 86400, "2y1d"),
        (9 * 365 * 86400, "9y"),
    ],
)
def test_durations_shorten_as_upstreams(seconds, text):
    assert human(seconds) == text


def test_an_absent_time_is_unknown():
    assert since(None, NOW) == "<unknown>"
    assert since("yesterday", NOW) == "<unknown>"


@pytest.mark.parametrize(
    ("selector", "shown"),
    [
        (None, "<none>"),
        ({}, "*"),
        ({"driver": "gpu.example.com"}, "gpu.example.com"),
        (
            {"driver": "gpu.example.com", "pool": "n1", "device": "gpu-0"},
            "gpu.example.com/n1/gpu-0",
        ),
        ({"device": "gpu-0"}, "*/*/gpu-0"),
    ],
)
def test_a_taint_rule_without_a_selector_looks_unlike_one_for_all_devices(selector, shown):
    spec = {"taint": {"key": "bad", "effect": "NoExecute"}}
    document = {"spec": spec if selector is None else spec | {"deviceSelector": selector}}
    assert show("resource.k8s.io", "v1", "devicetaintrules", document)["Devices"] == shown
