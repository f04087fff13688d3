"""What is wrong with an expression, in the words of kube-apiserver (cel-go), at the same place."""

import pytest

from kubarium.api.cel.devices import compile_device_selector
from kubarium.api.cel.environment import CelCompileError, CelRuntimeError

D = 'device.attributes["d"]'
LISTS = {
    "flags": {"bools": [True]},
    "many": {"ints": list(range(60))},
    "name": {"string": "é☃x"},
    "n": {"int": 1},
    "version": {"version": "1.0.0"},
}


def error_of(expression, **gates):
    with pytest.raises(CelCompileError) as caught:
        compile_device_selector(expression, **gates)
    return str(caught.value)


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        (
            "device.a == 1 ||\n  device.b",
            "ERROR: <input>:1:7: undefined field 'a'\n | device.a == 1 ||\n | ......^\n"
            "ERROR: <input>:2:9: undefined field 'b'\n |   device.b\n | ........^",
        ),
        (
            '"☃".matches("(")',
            'ERROR: <input>:1:13: invalid matches argument\n | "☃".matches("(")\n | .．..........^',
        ),
        (
            'duration("x") > duration("y")',
            'ERROR: <input>:1:10: invalid duration argument\n | duration("x") > duration("y")\n'
            " | .........^\n"
            'ERROR: <input>:1:26: invalid duration argument\n | duration("x") > duration("y")\n'
            " | .........................^",
        ),
        (
            '[1, "a"] == []',
            "ERROR: <input>:1:5: expected type 'int' but found 'string'\n"
            ' | [1, "a"] == []\n | ....^',
        ),
        (
            'semver("1.0.0").isLessThan("a")',
            "ERROR: <input>:1:27: found no matching overload for 'isLessThan' applied to"
            " 'kubernetes.Semver.(string)'\n"
            ' | semver("1.0.0").isLessThan("a")\n | ..........................^',
        ),
        (
            "a.b.c",
            "ERROR: <input>:1:1: undeclared reference to 'a' (in container '')\n | a.b.c\n | ^",
        ),
        (
            "[].nonsense(x)",
            "ERROR: <input>:1:12: undeclared reference to 'nonsense' (in container '')\n"
            " | [].nonsense(x)\n | ...........^\n"
            "ERROR: <input>:1:13: undeclared reference to 'x' (in container '')\n"
            " | [].nonsense(x)\n | ............^",
        ),
        (
            "has(device)",
            "ERROR: <input>:1:5: invalid argument to has() macro\n | has(device)\n | ....^",
        ),
    ],
)
def test_mistakes_are_named_in_the_order_of_the_text(expression, error):
    assert error_of(expression) == f"compilation failed: {error}"


@pytest.mark.parametrize(
    ("call", "column", "fault"),
    [
        ('"%d".format(["a"])', 14, "decimal clause can only be used on integers, was given string"),
        ('"%.2f".format([1])', 16, "fixed-point clause can only be used on doubles, was given int"),
        (
            '"%s%x".format(["a", 1.5])',
            21,
            "only integers, byte buffers, and strings can be formatted as hex, was given double",
        ),
        (
            '"%s".format([[quantity("1")]])',
            23,
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists,"
            " types, durations, and timestamps, was given kubernetes.Quantity",
        ),
    ],
)
def test_a_format_is_compared_with_what_it_is_given(call, column, fault):
    said = error_of(f'{call} == ""')
    assert said.startswith(
        f"compilation failed: ERROR: <input>:1:{column}: error during formatting: {fault}\n"
    )


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (
            '"%q".format([1])',
            'could not parse formatting clause: unrecognized formatting clause "q"',
        ),
        ('"%s%s".format([1])', "index 1 out of range"),
        (
            '"%%%s".format([1, 2])',
            "too many arguments supplied to string.format (expected 1, got 2)",
        ),
        ('"%s%".format([1])', "unexpected end of string"),
    ],
)
def test_a_format_must_be_one(call, fault):
    column = call.index("(") + 1
    said = error_of(f'{call} == ""')
    assert said.startswith(f"compilation failed: ERROR: <input>:1:{column}: {fault}\n")


def test_formats_that_cannot_be_told_beforehand_are_left_alone():
    for given in f"[{D}.n]", "dyn(['a'])":
        compile_device_selector(f'"%d".format({given}) == "1"')
    assert compile_device_selector(f'"%%%s".format([{D}.n]) == "%1"').matches("d", LISTS, {})


@pytest.mark.parametrize(
    ("expression", "type_"),
    [
        ("[1]", "list(int)"),
        ("device", "kubernetes.DRADevice"),
        ("device.attributes", "map(string, map(string, dyn))"),
        ("optional.of(1)", "optional_type(int)"),
        ("type(1)", "type(int)"),
        ("null", "null_type"),
        ('duration("1s")', "google.protobuf.Duration"),
    ],
)
def test_a_result_of_another_type_is_named_in_full(expression, type_):
    assert error_of(expression) == f"must evaluate to bool or the unknown type, not {type_}"


@pytest.mark.parametrize("expression", ["dyn(true)", f"{D}.flags[0]"])
def test_a_dynamic_result_will_do_only_where_attributes_are_dynamic(expression):
    """Without lists they are google.protobuf.Any, which an attribute itself still gives."""
    said = error_of(expression, list_attributes=False)
    assert said == "must evaluate to bool or the unknown type, not dyn"
    assert compile_device_selector(expression).matches("d", LISTS, {})
    flag = compile_device_selector(f"{D}.flag", list_attributes=False)
    assert flag.matches("d", {"flag": {"bool": True}}, {})


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ('int("x") == 1', "type conversion error from 'string' to 'int'"),
        ('bool("x")', "type conversion error from 'string' to 'bool'"),
        ("uint(-1) == 1u", "unsigned integer overflow"),
        ("int(1e30) == 1", "integer overflow"),
    ],
)
def test_constants_are_converted_when_the_expression_is_written(expression, why):
    assert error_of(expression) == f"program instantiation failed: {why}"
    assert compile_device_selector('int("12") == 12 && uint(1) == 1u').matches("d", {}, {})


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        (f"{D}.many.includes(99)", "'includes' function cannot be applied to lists longer than 48"),
        (f"{D}.name", "CEL result of type string could not be converted to bool: unsupported"),
        (f"{D}.version", "CEL result of type kubernetes.Semver could not be converted to bool"),
        (f"{D}.many", "could not be converted to bool: type conversion error from list to 'bool'"),
        ("dyn(optional.of(1))", "CEL result of type optional_type could not be converted to bool"),
        (f"{D}.many[70] == 1", "index out of bounds: 70"),
        (f"{D}.n / 0 == 1", "division by zero"),
        (f"int({D}.name) == 1", "type conversion error from 'string' to 'int'"),
        (f"{D}.version < 1", "no such overload: _<_"),
        (f"{D}.name.substring(4) == ''", "index out of range: 4"),
        (f"{D}.name.substring(2, 1) == ''", "invalid substring range. start: 2, end: 1"),
        (f"{D}.name.charAt(-1) == ''", "index out of range: -1"),
        (f"{D}.n.charAt(1) == ''", "no such overload: charAt(int, int)"),
        ("lists.range(-1) == []", ""),
    ],
)
def test_what_fails_at_run_time(expression, error):
    with pytest.raises(CelRuntimeError) as caught:
        compile_device_selector(expression).matches("d", LISTS, {})
    assert error in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    [f"{D}.name < 1", f"!{D}.n", f"{D}.n && true", f"1 in {D}.n", f'{D}.n.startsWith("a")'],
)
def test_a_wrong_operand_of_a_known_operator_needs_no_more_words(expression):
    with pytest.raises(CelRuntimeError) as caught:
        compile_device_selector(expression).matches("d", LISTS, {})
    assert str(caught.value) == "no such overload"


@pytest.mark.parametrize(
    "expression",
    [
        f"{D}.many.includes(47)",
        f"!({D}.missing in [])",  # nothing is in it, whatever else might be wrong
        f'{D}.name.substring(0, 2) == "é☃"',
        f'{D}.name.substring(3) == ""',
        f'{D}.name.charAt(1) == "☃" && {D}.name.charAt(3) == ""',
        f'{D}.name.indexOf("x", 1) == 2 && {D}.name.indexOf("x", 100) == -1',
        f'{D}.name.indexOf("", 7) == 7 && {D}.name.lastIndexOf("", 7) == 7',
        f'{D}.name.lastIndexOf("é", 1) == 0 && {D}.name.lastIndexOf("é", 100) == -1',
        'duration("1m1ms").getMilliseconds() == 60001',
    ],
)
def test_functions_that_are_as_upstream_has_them(expression):
    assert compile_device_selector(expression).matches("d", LISTS, {})


@pytest.mark.parametrize(
    ("version", "fault"),
    [
        ("", "Version string empty"),
        ("1.0", "No Major.Minor.Patch elements found"),
        ("v1.0.0", 'Invalid character(s) found in major number "v1"'),
        ("1.02.0", 'Minor number must not contain leading zeroes "02"'),
        ("1.0.", 'strconv.ParseUint: parsing "": invalid syntax'),
        (f"{2**64}.0.0", f'strconv.ParseUint: parsing "{2**64}": value out of range'),
        ("1.0.0-a..b", "Prerelease is empty"),
        ("1.0.0-01", 'Numeric PreRelease version must not contain leading zeroes "01"'),
        ("1.0.0-a_b", 'Invalid character(s) found in prerelease "a_b"'),
        ("1.0.0+", "Build meta data is empty"),
        ("1.0.0+é", 'Invalid character(s) found in build meta data "é"'),
    ],
)
def test_what_is_wrong_with_a_version(version, fault):
    with pytest.raises(CelRuntimeError) as caught:
        compile_device_selector("true").matches("d", {"v": {"version": version}}, {})
    assert str(caught.value) == f"attribute v: parse semantic version: {fault}"
    if version:
        selector = compile_device_selector("semver(device.driver).major() == 1")
        with pytest.raises(CelRuntimeError) as caught:
            selector.matches(version, {}, {})
        assert str(caught.value) == fault
