"""The worst case of a selector, in units: what kube-apiserver measures a new expression by.

Each number was worked out by the rules of cel-go, apiserver and dynamic-resource-allocation.
"""

import pytest

from kubarium.api.cel.devices import MAX_COST, compile_device_selector
from kubarium.api.cel.sizes import UNBOUNDED, declared_size

D = 'device.attributes["d"]'
# A tenth of everything: text of a size that nobody knows is read.
A_TENTH = 1844674407370955264


@pytest.mark.parametrize(
    ("expression", "units"),
    [
        ("true", 0),
        ("device.allowMultipleAllocations", 2),
        ('device.driver == "d"', 3),
        (f"{D}.x", 4),
        (f'{D}["x"]', 4),
        (f"has({D}.x)", 3),  # looking whether it is there is free
        ("has(device.attributes)", 1),
        (f"{D}.?x.orValue(true)", 5),
        (f"dyn({D}.x)", 5),
        (f'{D}.x == "ab"', 5),
        (f"{D}.x == {D}.y", 15),  # 64 characters each
        (f"{D}.x && ({D}.y ? {D}.z : true)", 12),
        (f'{D}.x.startsWith("abcdefghijk")', 6),  # the text that it starts with is read
        (f'{D}.x.contains("a")', 11),
        (f'{D}.x.matches("^a")', 11),
        (f'{D}.x.split(",").size() == 2', 19),
        (f'{D}.x.split(",").exists(p, p == "a")', 402),
        (f'{D}.x.lowerAscii() == "a"', 12),
        (f'{D}.x.replace("a", "bc") == "a"', 18),
        (f'{D}.x + "b" == "a"', 12),
        (f'"a" in {D}.x', 68),
        ('"a" in {"a": 1}', 31),
        (f'{D}.x.includes("a")', 52),
        (f"{D}.x.all(v, v > 0)", 325),
        (f"{D}.x.map(v, v).size() == 1", 849),
        (f"{D}.all(n, n != 'a')", 164),
        ("device.attributes.exists(d, d == 'a')", 195),
        ("[].all(x, true)", 11),
        (f"cel.bind(a, {D}, a.x && a.y)", 17),
        ("sets.contains([1, 2], [1])", 23),
        ("sets.equivalent([1, 2], [1])", 25),
        ("lists.range(5).size() == 5", 18),
        ("[1, 2].distinct().size() == 2", 31),
        ("[2, 1].sort() == [1, 2]", 40),
        ("[[1]].flatten() == [1]", 43),
        ('isSemver("1.2.3")', 1),
        ("isSemver(device.driver)", 9),
        (f'{D}.x.isGreaterThan(semver("1.0.0"))', 6),
        ('device.capacity["d"].x.compareTo(quantity("1")) > 0', 7),
        ('quantity("1") == quantity("2")', 3),
        ('cidr("10.0.0.0/8").containsIP("10.0.0.1")', 6),
        ('cidr("10.0.0.0/8").containsCIDR(cidr("10.0.0.0/9"))', 9),
        ('ip("10.0.0.1").family() == 4', 3),
        ('ip.isCanonical("10.0.0.1")', 2),
        ('"%s".format(["a"]) == "a"', 12),
        ('quantity("1") != quantity("2")', A_TENTH + 2),  # an oversight of upstream's, and the rule
        (f"type({D}.x) == int", A_TENTH + 6),
        (f'{D}.x.map(v, v + "!").size() == 2', UNBOUNDED),
    ],
)
def test_what_an_expression_may_cost_at_most(expression, units):
    assert compile_device_selector(expression).cost == units


def test_loops_in_loops_multiply():
    inner = "true"
    for depth in range(3):
        before = compile_device_selector(inner).cost
        inner = f"device.attributes.all(x{depth}, {inner})"
        # The range costs 2; each of 32 rounds its body, a look at the result so far twice, and the
        # check of that; in the end the result is looked at once more.
        assert compile_device_selector(inner).cost == 2 + 32 * (before + 3) + 1
    assert compile_device_selector(inner).cost < MAX_COST


@pytest.mark.parametrize(
    ("path", "most"),
    [
        (("device", "driver"), 63),
        (("device", "attributes"), 32),
        (("device", "attributes", "@keys"), 63),
        (("device", "attributes", "@values", "@keys"), 32),
        (("device", "attributes", "@values", "model"), 64),
        (("device", "capacity", "@values", "@values"), 0),
    ],
)
def test_sizes_that_the_api_declares(path, most):
    assert declared_size(path) == (0, most)


@pytest.mark.parametrize("path", [(), ("x",), ("device", "capacity", "@values", "memory")])
def test_sizes_that_nobody_declares(path):
    assert declared_size(path) is None
