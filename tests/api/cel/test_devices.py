"""Device selectors: what the variable holds, what compiles, what fails at run time."""

import pytest

from kubarium.api.cel.devices import (
    MAX_EXPRESSION_BYTES,
    compile_device_selector,
    prepare_device,
)
from kubarium.api.cel.environment import CelCompileError, CelRuntimeError

GPU = prepare_device(
    "gpu.example.com",
    {
        "type": {"string": "gpu"},
        "index": {"int": 3},
        "healthy": {"bool": True},
        "driverVersion": {"version": "1.10.2"},
        "resource.kubernetes.io/pcieRoot": {"string": "pci0000:01"},
        "modes": {"strings": ["mig", "vgpu"]},
    },
    {"memory": {"value": "80Gi"}, "other.example.com/slots": {"value": "7"}},
    allow_multiple=True,
)
MINE = 'device.attributes["gpu.example.com"]'


def matches(expression):
    return compile_device_selector(expression).matches_prepared(GPU)


@pytest.mark.parametrize(
    "expression",
    [
        'device.driver == "gpu.example.com"',
        f'{MINE}.type == "gpu"',
        f"{MINE}.index == 3 && {MINE}.healthy",
        f'{MINE}["type"].startsWith("g")',
        'device.attributes["resource.kubernetes.io"].pcieRoot == "pci0000:01"',
        f'{MINE}.driverVersion.isGreaterThan(semver("1.9.0"))',
        f'{MINE}.driverVersion.compareTo(semver("1.10.2")) == 0',
        f'{MINE}.driverVersion == semver("v1.10.2", true)',
        f"{MINE}.driverVersion.minor() == 10",
        'device.capacity["gpu.example.com"].memory.compareTo(quantity("40Gi")) >= 0',
        'device.capacity["gpu.example.com"].memory == quantity("81920Mi")',
        'device.capacity["other.example.com"].slots.isInteger()',
        '"gpu.example.com" in device.attributes',
        '!("nowhere.example.com" in device.attributes)',
        'device.attributes["nowhere.example.com"].size() == 0',
        "device.attributes.nowhere.size() == 0 && !has(device.capacity.nowhere.x)",
        "has(device.attributes.nowhere) && has(device.capacity.nowhere)",
        f"has({MINE}.type) && !has({MINE}.colour)",
        'has(device.driver) && !has(device.attributes["nowhere"].x)',
        f'cel.bind(a, {MINE}, a.type == "gpu" && a.index < 4)',
        'cel.bind(a, device.attributes, !has(a["nowhere"].x))',
        'cel.bind(d, device, d.driver == "gpu.example.com")',
        f'{MINE}.modes.exists(m, m == "mig") && "vgpu" in {MINE}.modes',
        f'{MINE}.modes.includes("mig") && {MINE}.type.includes("gpu")',
        f'{MINE}.driverVersion != "1.10.2" && !("1.10.2" == {MINE}.driverVersion)',
        f"!({MINE}.driverVersion == null)",
        f'{MINE}[?"colour"].orValue("red") == "red"',
        f'{MINE}.?type.orValue("") == "gpu"',
        f'["gpu", "npu"].exists(t, t == {MINE}.type)',
        f'{MINE}.type.matches("^g.u$")',
        "device.allowMultipleAllocations",
    ],
)
def test_selectors_that_match(expression):
    assert matches(expression) is True
    assert matches(f"!({expression})") is False


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (f"{MINE}.colour == 'red'", "no such key: colour"),
        ('device.attributes["nowhere"].x == 1', "no such key: x"),
        ("device.attributes.nowhere.x == 1", "no such key: x"),
        (f'{MINE}.driverVersion == "1.10.2"', "no such overload"),
        (f'quantity("3") == {MINE}.index', "no such overload"),
        (f"{MINE}.driverVersion == {MINE}.?type", "no such overload"),
        (f"{MINE}.index.exists(x, x > 0)", "got 'types.Int', expected iterable type"),
        (f"{MINE}.driverVersion.all(x, true)", "got 'cel.Semver', expected iterable type"),
        (f"['a'].exists(y, {MINE}.type.exists(x, x == y))", "got 'types.String'"),
        (f"cel.bind(a, {MINE}, a.healthy.exists(x, x))", "got 'types.Bool', expected iterable"),
        (f"!isIP({MINE}.driverVersion)", "no such overload"),
        (f"{MINE}.driverVersion.isSorted()", "no such overload: isSorted(kubernetes.Semver)"),
        (f"{MINE}.type.sum() == 0", "no such overload: sum(string)"),
        (f'{MINE}.type == "x" || {MINE}.driverVersion == 1', "no such overload"),
        (f"{MINE}.type > 1", "no such overload"),
        (f"{MINE}.index", "CEL result of type int could not be converted to bool"),
        (f"{MINE}.modes", "CEL result of type list could not be converted to bool"),
        (f'{MINE}.type.isLessThan(quantity("1"))', "isLessThan(string, kubernetes.Quantity)"),
        (f'{MINE}.driverVersion.isLessThan(quantity("1"))', "no such overload: isLessThan"),
        ("quantity(device.driver).isInteger()", "quantities must match"),
        ('device.capacity["gpu.example.com"].memory.asInteger() / 0 == 1', "division by zero"),
    ],
)
def test_selectors_that_fail_at_run_time_say_why(expression, message):
    selector = compile_device_selector(expression)
    with pytest.raises(CelRuntimeError) as caught:
        selector.matches_prepared(GPU)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "Syntax error"),
        ("device.driver ==", "Syntax error"),
        ("1", "must evaluate to bool or the unknown type, not int"),
        ("'x'", "must evaluate to bool or the unknown type, not string"),
        ("device.colour == 1", "undefined field 'colour'"),
        ("driver == 'x'", "undeclared reference to 'driver'"),
        ("device.driver == 1", "found no matching overload for '_==_'"),
        ('device.capacity["a"].b == 1', "(kubernetes.Quantity, int)"),
        ("[].reverse().charAt(1) == 1", "'charAt' applied to 'list(dyn).(int)'"),
        ('duration("9999999h") > duration("1h")', "<input>:1:10: invalid duration argument"),
        ("[1].map(1, true)", "<input>:1:9: argument is not an identifier"),
        ("[1].all(1, true)", "<input>:1:9: argument must be a simple name"),
        ("[1].all(1, v, true)", "<input>:1:9: argument must be a simple name"),
        ("null.a", "type 'null' does not support field selection"),
        ("0xFFFFFFFFFFFFFFFFF == 1", "<input>:1:1: invalid int literal"),
        (r'"\ud800" == "x"', "<input>:1:1: invalid unicode code point"),
        ('quantity("1").isGreaterThan(semver("1.0.0"))', "no matching overload"),
        ("[1].includes(optional.none())", "includes() cannot take an optional value"),
        ("optional.of(1).includes(1)", "includes() cannot take an optional value"),
        ("[1].includes(type(1))", "includes() cannot take a type value"),
        ("dyn(optional.none()).major() == 1", "major() cannot take an optional value"),
        ("nonsense(device)", "undeclared reference to 'nonsense'"),
        ("true || " * 2000 + "true", f"may not be more than {MAX_EXPRESSION_BYTES} bytes"),
    ],
)
def test_selectors_that_do_not_compile_say_why(expression, message):
    with pytest.raises(CelCompileError) as caught:
        compile_device_selector(expression)
    assert message in str(caught.value)


def test_feature_gates_take_parts_of_the_environment_away():
    with pytest.raises(CelCompileError, match="undefined field 'allowMultipleAllocations'"):
        compile_device_selector("device.allowMultipleAllocations", multiple_allocations=False)
    exists = f"{MINE}.modes.exists(m, m == 'mig')"
    with pytest.raises(CelCompileError, match="range of a comprehension"):
        compile_device_selector(exists, list_attributes=False)
    assert compile_device_selector(f"{MINE}.healthy", list_attributes=False).matches_prepared(GPU)


def test_equal_expressions_share_one_selector():
    assert compile_device_selector("true") is compile_device_selector("true")


def test_short_form_takes_the_parts_of_a_device():
    selector = compile_device_selector('device.attributes["d"].a == 1 && device.driver == "d"')
    assert selector.matches("d", {"a": {"int": 1}}, {})
    assert not selector.matches("d", {"a": {"int": 2}}, {})


@pytest.mark.parametrize(
    ("attributes", "capacity", "message"),
    [
        (
            {"v": {"version": "1.x"}},
            {},
            "v: parse semantic version: No Major.Minor.Patch elements found",
        ),
        ({"v": {"colour": "x"}}, {}, "v: unsupported attribute value"),
        ({}, {"m": {"value": "much"}}, "m: quantities must match"),
    ],
)
def test_devices_with_broken_values_are_refused_by_name(attributes, capacity, message):
    with pytest.raises(CelRuntimeError) as caught:
        prepare_device("d", attributes, capacity)
    assert message in str(caught.value)


def test_an_evaluation_that_may_cost_too_much_is_refused():
    inner = "true"
    for depth in range(5):
        inner = f"device.attributes.all(x{depth}, {inner})"
    selector = compile_device_selector(inner)
    assert selector.cost > 1_000_000
    assert selector.matches_prepared(GPU) is True  # two domains: cheap in fact
    many = {f"domain{n}.example.com/a": {"int": n} for n in range(32)}
    with pytest.raises(CelRuntimeError, match="actual cost limit exceeded"):
        selector.matches("d", many, {})


def test_a_device_beyond_the_api_limits_is_judged_by_its_real_size():
    selector = compile_device_selector(
        f"{MINE}.all(a, {MINE}.all(b, {MINE}.all(c, true)))".replace("a,", "a,")
    )
    attributes = {f"a{n}": {"int": n} for n in range(2000)}
    with pytest.raises(CelRuntimeError, match="actual cost limit exceeded"):
        selector.matches("gpu.example.com", attributes, {})
