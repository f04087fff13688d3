"""The table of `kubarium devices`: order, columns, what it leaves out."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from kubarium.api.kinds import RESOURCE_CLAIMS, RESOURCE_SLICES
from kubarium.api.resource import ListResult
from kubarium.base.errors import ApiError, ConfigError
from kubarium.cli.devices import (
    Row,
    _aligned,
    _by_node,
    _check_published,
    _hardware_id,
    _line,
    _measure,
    _natural,
    _rows,
    _state,
)
from kubarium.node.drivers.exposition import exposition
from kubarium.node.drivers.readings import Reading
from kubarium.view.device_taints import taint_rule


def row(node="n1", device="gpu-0", state="ok", claims=(), **measures):
    return Row(node, "gpu.nvidia.com", device, "NVIDIA H100", state, list(claims), measures)


def test_a_device_and_what_it_measures():
    busy = row(
        claims=["team/train"],
        utilization=0.87,
        memory_used=58.66 * 2**30,
        memory_total=80 * 2**30,
        power_w=588.2,
        temperature_c=66,
    )
    assert _line(busy)[4:] == ["87%", "58.7/80Gi", "588W", "66C", "team/train"]
    assert _line(row())[4:] == ["-", "-", "-", "-", "-"]


def test_many_devices_are_a_line_for_each_node():
    rows = [
        row(utilization=1.0, power_w=700.0, claims=["a/b"]),
        row(device="gpu-1", utilization=0.0, power_w=70.0, state="xid=79:NoSchedule"),
        row(node="n2"),
    ]
    assert _by_node(rows) == [
        ["n1", "gpu.nvidia.com", "2", "1", "1", "50%", "770W"],
        ["n2", "gpu.nvidia.com", "1", "0", "0", "-", "-"],
    ]


def test_numbers_are_in_their_order():
    names = ["gpu-10", "gpu-2", "gpu-2-mig-1g5gb-19-0", "nic-0"]
    assert sorted(names, key=_natural) == ["gpu-2", "gpu-2-mig-1g5gb-19-0", "gpu-10", "nic-0"]


def test_taints_are_the_state():
    def device(*taints):
        return {"taints": [dict(zip(("key", "value", "effect"), t, strict=True)) for t in taints]}

    assert _state({}) == "ok"
    assert _state(device(("d/xid", "79", "NoSchedule"))) == "xid=79:NoSchedule"
    assert _state(device(("d/unhealthy", "true", "NoExecute"), ("d/x", "", "None"))) == (
        "unhealthy:NoExecute, x:None"
    )


def test_devices_whose_counters_are_spent_are_blocked_by_those_that_hold_them():
    part = {"name": "gpu-0-mig-1"}
    tainted = {"taints": [{"key": "d/xid", "value": "79", "effect": "NoSchedule"}]}
    assert _state(part, blocked=True) == "blocked"

    def shown(state, *names):
        blocked = row(state=state)
        blocked.blocked_by = list(names)
        return _line(blocked)[3]

    assert shown("blocked", "gpu-0") == "blocked by gpu-0"
    assert shown(_state(tainted, blocked=True), "m0") == "xid=79:NoSchedule, blocked by m0"
    assert shown("blocked", *(f"m{i}" for i in range(5))) == "blocked by m0, m1, m2 and 2 more"
    assert _by_node([row(state="blocked")])[0][4] == "0", "that is no taint"


def test_columns_are_as_wide_as_they_need():
    assert _aligned([["A", "LONG"], ["word", "b"]]) == ["A     LONG", "word  b"]


def test_a_rules_taint_is_told_with_the_rule():
    selector = {"driver": "d", "pool": "p"}
    taint = {"key": "d/repair", "value": "x", "effect": "NoExecute"}
    document = {
        "metadata": {"name": "r1"},
        "spec": {"deviceSelector": selector, "taint": taint},
    }
    sick = {"taints": [{"key": "d/xid", "value": "79", "effect": "None"}]}
    text = "d/repair=x:NoExecute (DeviceTaintRule r1)"
    assert _state({}, rules=[taint_rule(document)]) == text
    assert _state(sick, rules=[taint_rule(document)]) == f"xid=79:None, {text}"


def test_devices_of_a_pool_that_gives_none_say_so():
    idle, tainted = row(), row(state="xid=79:NoSchedule")
    idle.unusable = tainted.unusable = "incomplete pool: 1 of 2 slices"
    assert _line(idle)[3] == "incomplete pool: 1 of 2 slices"
    assert _line(tainted)[3] == "xid=79:NoSchedule, incomplete pool: 1 of 2 slices"


def test_a_device_whose_counters_never_were_enough_is_blocked_by_nobody():
    assert _line(row(state="blocked"))[3] == "blocked: too few counters"


def test_devices_of_one_name_are_told_apart_by_what_their_metrics_call_them():
    def device(uuid=None, parent=None, name="gpu-1"):
        values = {"uuid": uuid, "parentUUID": parent}
        return {"name": name, "attributes": {k: {"string": v} for k, v in values.items() if v}}

    part = "gpu-1-mig-1g10gb-19-0"
    given = {
        "real": (device("GPU-r"), Reading("real", "n1", "gpu-1", 1, "GPU-r", "M", power_w=300)),
        "sim": (device("GPU-s"), Reading("sim", "n1", "gpu-1", 1, "GPU-s", "M", power_w=70)),
        "part": (
            device(parent="GPU-s", name=part),
            Reading("sim", "n1", part, 1, "MIG-s", "M", utilization=50, parent="GPU-s"),
        ),
    }
    rows = {
        key: Row("n1", key, device["name"], "M", "ok", hardware_id=_hardware_id(device))
        for key, (device, _) in given.items()
    }

    class Client:
        async def raw(self, path):
            assert path == "/api/v1/nodes/n1/proxy/metrics"
            return exposition("n1", [reading for _, reading in given.values()])

    asyncio.run(_measure(Client(), list(rows.values()), ["n1"]))
    assert rows["real"].measures == {"power_w": 300}
    assert rows["sim"].measures == {"power_w": 70}
    assert rows["part"].measures == {"utilization": 0.5}


def test_a_gpu_that_is_published_in_parts_may_be_spoken_of():
    parts = [{"name": name} for name in ("gpu-0-mig-1g5gb-19-6", "gpu-1")]

    class Client:
        async def get(self, kind, name):
            return {"metadata": {"name": name}}

        async def list(self, kind, field_selector):
            return SimpleNamespace(items=[{"spec": {"devices": parts}}])

    def check(*named):
        asyncio.run(_check_published(Client(), "n1", "gpu.nvidia.com", named))

    check("gpu-0", "gpu-1", "gpu-0-mig-1g5gb-19-6")
    with pytest.raises(ConfigError, match=r"n1 has no device gpu-2 of gpu\.nvidia\.com; did you"):
        check("gpu-1", "gpu-2")


OLD_SLICE = {
    "metadata": {"name": "s"},
    "spec": {
        "driver": "gpu.example.com",
        "nodeName": "n1",
        "pool": {"name": "n1", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "gpu-0", "basic": {"attributes": {"model": {"string": "A"}}}}],
    },
}
OLD_CLAIM = {
    "metadata": {"name": "c", "namespace": "default"},
    "spec": {"devices": {"requests": [{"name": "r", "deviceClassName": "gpu"}]}},
    "status": {
        "allocation": {
            "devices": {
                "results": [
                    {
                        "request": "r",
                        "driver": "gpu.example.com",
                        "pool": "n1",
                        "device": "gpu-0",
                    }
                ]
            }
        },
        "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}],
    },
}


class Elsewhere:
    """A cluster with these lists, in whatever versions; it answers no metrics."""

    def __init__(self, lists):
        self.lists = lists

    async def list(self, resource, namespace="", **options):
        found = self.lists.get(resource, ApiError(404, "NotFound", "no such path"))
        if isinstance(found, ApiError):
            raise found
        return ListResult(found, "1")

    async def raw(self, path):
        raise ApiError(404, "NotFound", path)


def test_devices_of_a_cluster_that_serves_an_older_version_are_shown():
    slices = RESOURCE_SLICES._replace(version="v1beta1")
    claims = RESOURCE_CLAIMS._replace(version="v1beta1")
    [found] = asyncio.run(_rows(Elsewhere({slices: [OLD_SLICE], claims: [OLD_CLAIM]}), "", ""))
    assert (found.device, found.model, found.claims) == ("gpu-0", "A", ["default/p"])


def test_claims_that_may_not_be_listed_are_no_idle_devices():
    refused = ApiError(403, "Forbidden", "no")
    with pytest.raises(ApiError) as raised:
        asyncio.run(_rows(Elsewhere({RESOURCE_SLICES: [], RESOURCE_CLAIMS: refused}), "", ""))
    assert raised.value is refused
