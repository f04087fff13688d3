"""The table of `kubarium devices`: order, columns, what it leaves out."""

from __future__ import annotations

from kubarium.cli.devices import Row, _aligned, _by_node, _line, _natural, _state


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


def test_columns_are_as_wide_as_they_need():
    assert _aligned([["A", "LONG"], ["word", "b"]]) == ["A     LONG", "word  b"]
