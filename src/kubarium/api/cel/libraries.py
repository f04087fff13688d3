"""Kubernetes' CEL libraries that cel-cpp does not have, as one table of functions.

Source: apiserver ``pkg/cel/library`` (quantity.go, semverlib.go, regex.go, lists.go, urls.go,
ip.go, cidr.go, format.go) and ``pkg/cel/environment/base.go``; ``includes`` is from the
environment of dynamic resource allocation.

A row is declared with its exact types to the type checker; at run time one implementation of a
name and number of arguments takes any types (cel-cpp dispatches by kind only, and all our types
travel as bytes) and refuses what it does not know.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any
from urllib.parse import SplitResult

from cel_expr_python import cel

from kubarium.api.cel.addresses import Address, Network
from kubarium.api.cel.formats import FORMATS
from kubarium.api.cel.urls import escaped_path, host_of, name_of, port_of
from kubarium.api.cel.values import (
    CelValueError,
    Format,
    Semver,
    carry,
    is_url,
    parse_cidr,
    parse_ip,
    parse_url,
    quantity,
    semver,
    uncarry,
    url_query,
)

_INT64 = 2**63
MAX_INCLUDES = 48  # values that includes() looks at, as many as a device may have

QUANTITY, SEMVER, IP, CIDR, URL, FORMAT = (
    "kubernetes.Quantity",
    "kubernetes.Semver",
    "net.IP",
    "net.CIDR",
    "kubernetes.URL",
    "kubernetes.NamedFormat",
)


@dataclass(frozen=True, slots=True)
class Function:
    """One overload: its types, and the Python function behind it.

    ``optional`` results come back as a list of none or one and are turned into an optional when the
    expression is compiled. ``runtime_name`` differs where cel-cpp has its own function of that name
    which would take our bytes for real ones; ``list_receiver`` keeps a list function apart from
    cel-cpp's string function of the same name.
    """

    name: str
    receiver: str
    parameters: tuple[str, ...]
    result: str
    implementation: Callable[..., Any]
    optional: bool = False
    runtime_name: str = ""
    list_receiver: bool = False

    @property
    def overload_id(self) -> str:
        """Unique among all functions of an environment."""
        types = "_".join((self.receiver, *self.parameters))
        return f"k8s_{self.name}_{types}".translate(str.maketrans(".<>, ", "_____"))


def _wrong(name: str, *values: Any) -> CelValueError:
    kinds = ", ".join(type_name(value) for value in values)
    return CelValueError(f"no such overload: {name}({kinds})")


def type_name(value: Any) -> str:
    """The CEL type of an uncarried Python value, for messages."""
    for python_type, name in _TYPE_NAMES:
        if isinstance(value, python_type):
            return name
    return type(value).__name__


_TYPE_NAMES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "bool"),
    (int, "int"),
    (float, "double"),
    (str, "string"),
    ((bytes, bytearray), "bytes"),
    (Fraction, QUANTITY),
    (Semver, SEMVER),
    ((ipaddress.IPv4Interface, ipaddress.IPv6Interface), CIDR),
    ((ipaddress.IPv4Address, ipaddress.IPv6Address), IP),
    (SplitResult, URL),
    (Format, FORMAT),
    (list, "list"),
    (dict, "map"),
    (type(None), "null"),
)


def _same_kind(name: str, left: Any, right: Any) -> tuple[Any, Any]:
    """Two quantities or two versions."""
    a, b = uncarry(left), uncarry(right)
    if type(a) is type(b) and isinstance(a, Fraction | Semver):
        return a, b
    raise _wrong(name, a, b)


def _unlike(left: Any, right: Any) -> bool:
    """False, or upstream's error where one of our types is compared with a value of another.

    Its ``Equal`` knows only its own type, where CEL's own types are just not equal to others.
    """
    a, b = uncarry(left), uncarry(right)
    ours = isinstance(a, Fraction | Semver | Format | SplitResult | Address | Network)
    if ours and right is not None and type_name(a) != type_name(b):
        raise CelValueError("no such overload")
    return False


def _is_less(left: Any, right: Any) -> bool:
    a, b = _same_kind("isLessThan", left, right)
    return bool(a < b)


def _is_greater(left: Any, right: Any) -> bool:
    a, b = _same_kind("isGreaterThan", left, right)
    return bool(a > b)


def _compare(left: Any, right: Any) -> int:
    a, b = _same_kind("compareTo", left, right)
    return int(a > b) - int(a < b)


# --- quantities ---------------------------------------------------------------------------------


def _quantity_of(name: str, value: Any) -> Fraction:
    amount = uncarry(value)
    if isinstance(amount, Fraction):
        return amount
    raise _wrong(name, amount)


def _is_quantity(text: str) -> bool:
    return _succeeds(quantity, text)


def _succeeds(function: Callable[..., object], *args: Any) -> bool:
    if not isinstance(args[0], str):
        raise _wrong("predicate", uncarry(args[0]))
    try:
        function(*args)
    except CelValueError:
        return False
    return True


def _is_integer(value: Any) -> bool:
    amount = _quantity_of("isInteger", value)
    return amount.denominator == 1 and -_INT64 <= amount.numerator < _INT64


def _as_integer(value: Any) -> int:
    if not _is_integer(value):
        raise CelValueError("cannot convert value to integer")
    return int(_quantity_of("asInteger", value))


def _as_float(value: Any) -> float:
    return float(_quantity_of("asApproximateFloat", value))


def _sign(value: Any) -> int:
    amount = _quantity_of("sign", value)
    return (amount > 0) - (amount < 0)


def _addend(name: str, value: Any) -> Fraction:
    if isinstance(value, int) and not isinstance(value, bool):
        return Fraction(value)
    return _quantity_of(name, value)


def _add(left: Any, right: Any) -> bytes:
    return carry(_quantity_of("add", left) + _addend("add", right))


def _sub(left: Any, right: Any) -> bytes:
    return carry(_quantity_of("sub", left) - _addend("sub", right))


# --- versions -----------------------------------------------------------------------------------


def _is_semver(*args: Any) -> bool:
    return _succeeds(semver, *args)


def _version_part(part: str) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        version = uncarry(value)
        if not isinstance(version, Semver):
            raise _wrong(part, version)
        return int(getattr(version, part))

    return read


# --- lists --------------------------------------------------------------------------------------


def _elements(name: str, items: Any) -> list[Any]:
    if not isinstance(items, list):
        raise _wrong(name, uncarry(items))
    return items


def _is_sorted(items: Any) -> bool:
    items = _elements("isSorted", items)
    plain = [uncarry(item) for item in items]
    return all(_not_after(a, b) for a, b in pairwise(plain))


def _not_after(left: Any, right: Any) -> bool:
    if type_name(left) != type_name(right):
        raise _wrong("isSorted", left, right)
    return bool(left <= right)


def _sum(items: Any) -> Any:
    items = _elements("sum", items)
    plain = [uncarry(item) for item in items]
    if plain and isinstance(plain[0], timedelta):
        return sum(plain, timedelta())
    if any(isinstance(item, bool) or not isinstance(item, int | float) for item in plain):
        raise _wrong("sum", items)
    total = sum(plain)
    if isinstance(total, int) and not -_INT64 <= total < _INT64:
        raise CelValueError("integer overflow")
    return total


def _extreme(name: str, choose: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    def pick(items: Any) -> Any:
        items = _elements(name, items)
        if not items:
            raise CelValueError(f"{name} called on empty list")
        allowed = (bool, int, float, str, bytes, bytearray, datetime, timedelta)
        if any(not isinstance(item, allowed) or isinstance(item, list) for item in items):
            raise _wrong(name, items)
        return choose(items)

    return pick


def _cel_equal(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _index_of(items: list[Any], wanted: Any) -> int:
    return next((at for at, item in enumerate(items) if _cel_equal(item, wanted)), -1)


def _last_index_of(items: list[Any], wanted: Any) -> int:
    return len(items) - 1 - at if (at := _index_of(items[::-1], wanted)) >= 0 else -1


def _includes(items: Any, wanted: Any) -> bool:
    if not isinstance(items, list):
        return _cel_equal(items, wanted)
    if any(_cel_equal(item, wanted) for item in items[:MAX_INCLUDES]):
        return True
    if len(items) > MAX_INCLUDES:
        raise CelValueError(
            f"'includes' function cannot be applied to lists longer than {MAX_INCLUDES} values"
        )
    return False


# --- regular expressions: cel-cpp's RE2, so that no pattern can take exponential time -----------

_REGEX = cel.NewEnv(
    config=cel.NewEnvConfigFromYaml("extensions:\n- name: optional\n- name: regex\n"),
    variables={"text": cel.Type.STRING, "pattern": cel.Type.STRING},
)
_FIND = _REGEX.compile('regex.extract(text, pattern).orValue("")')
_FIND_ALL = _REGEX.compile("regex.extractAll(text, pattern)")


def without_groups(pattern: str) -> str:
    """The pattern with capturing groups made plain ones: ``extract`` would return the group.

    >>> without_groups(r"(a)(?P<x>b)[(](?i:c)")
    '(?:a)(?:b)[(](?i:c)'
    """
    out: list[str] = []
    at, in_class = 0, False
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            if pattern.startswith("\\Q", at):
                end = pattern.find("\\E", at)
                stop = len(pattern) if end < 0 else end + 2
                out.append(pattern[at:stop])
                at = stop
                continue
            out.append(pattern[at : at + 2])
            at += 2
            continue
        if in_class:
            in_class = char != "]" or pattern[at - 1] == "["
        elif char == "[":
            in_class = True
            if pattern.startswith("[^", at):
                out.append("[^")
                at += 2
                if pattern.startswith("]", at):
                    out.append("]")
                    at += 1
                continue
        elif char == "(":
            at, opening = _group_opening(pattern, at)
            out.append(opening)
            continue
        out.append(char)
        at += 1
    return "".join(out)


def _group_opening(pattern: str, at: int) -> tuple[int, str]:
    for named in ("(?P<", "(?<"):
        if pattern.startswith(named, at) and (end := pattern.find(">", at)) > 0:
            return end + 1, "(?:"
    if pattern.startswith("(?", at):
        return at + 2, "(?"
    return at + 1, "(?:"


def _regex(expression: cel.Expression, text: str, pattern: str) -> Any:
    result = expression.eval(data={"text": text, "pattern": without_groups(pattern)})
    if result.type() == cel.Type.ERROR:
        raise CelValueError(str(result.value()))
    return result.plain_value()


def _find(text: str, pattern: str) -> str:
    return str(_regex(_FIND, text, pattern))


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found: list[str] = _regex(_FIND_ALL, text, pattern)
    return found if limit < 0 else found[:limit]


# --- URLs ---------------------------------------------------------------------------------------


def _url_part(name: str, read: Callable[[SplitResult], Any]) -> Callable[[Any], Any]:
    def part(value: Any) -> Any:
        url = uncarry(value)
        if not isinstance(url, SplitResult):
            raise _wrong(name, url)
        return read(url)

    return part


# --- addresses ----------------------------------------------------------------------------------


def _address(name: str, value: Any) -> Address:
    found: Any = parse_ip(value) if isinstance(value, str) else uncarry(value)
    if isinstance(found, ipaddress.IPv4Address | ipaddress.IPv6Address) and type_name(found) == IP:
        return found
    raise _wrong(name, found)


def _network(name: str, value: Any) -> Network:
    found: Any = parse_cidr(value) if isinstance(value, str) else uncarry(value)
    if isinstance(found, ipaddress.IPv4Interface | ipaddress.IPv6Interface):
        return found
    raise _wrong(name, found)


def _ip(value: Any) -> bytes:
    if isinstance(value, str):
        return carry(parse_ip(value))
    return carry(_network("ip", value).ip)


def _address_flag(name: str, read: Callable[[Address], bool]) -> Callable[[Any], bool]:
    return lambda value: read(_address(name, value))


def _is_global_unicast(address: Address) -> bool:
    broadcast = address == ipaddress.IPv4Address("255.255.255.255")
    return not (
        broadcast
        or address.is_unspecified
        or address.is_loopback
        or address.is_multicast
        or address.is_link_local
    )


def _is_link_local_multicast(address: Address) -> bool:
    block = "224.0.0.0/24" if address.version == 4 else "ff02::/16"
    return address in ipaddress.ip_network(block)


def _contains_ip(value: Any, address: Any) -> bool:
    if isinstance(address, str) and not _succeeds(parse_ip, address):
        raise CelValueError("no such overload")  # upstream does not say why the text is no address
    return _address("containsIP", address) in _network("containsIP", value).network


def _contains_cidr(value: Any, other: Any) -> bool:
    outer, inner = _network("containsCIDR", value), _network("containsCIDR", other)
    if outer.version != inner.version or inner.network.prefixlen < outer.network.prefixlen:
        return False
    return inner.ip in outer.network


def _masked(value: Any) -> bytes:
    network = _network("masked", value).network
    return carry(ipaddress.ip_interface(str(network)))


def _text_of(value: Any) -> str:
    plain = uncarry(value)
    if type_name(plain) not in (IP, CIDR):
        raise _wrong("string", plain)
    return str(plain)


def _is_canonical(text: str) -> bool:
    return str(parse_ip(text)) == text


# --- formats ------------------------------------------------------------------------------------


def _format(name: str) -> Callable[[], bytes]:
    return lambda: carry(Format(name))


def _named_format(name: str) -> list[bytes]:
    return [carry(Format(name))] if name in FORMATS else []


def _validate(value: Any, text: str) -> list[list[str]]:
    chosen = uncarry(value)
    if not isinstance(chosen, Format) or not isinstance(text, str):
        raise _wrong("validate", chosen, text)
    errors = FORMATS[chosen.name](text)
    return [errors] if errors else []


# --- the table ----------------------------------------------------------------------------------


def _plain(name: str, parameters: Sequence[str], result: str, call: Callable[..., Any]) -> Function:
    return Function(name, "", tuple(parameters), result, call)


def _on(
    receiver: str, name: str, parameters: Sequence[str], result: str, call: Callable[..., Any]
) -> Function:
    return Function(name, receiver, tuple(parameters), result, call)


def _ordered(receiver: str) -> list[Function]:
    return [
        _on(receiver, "isLessThan", [receiver], "bool", _is_less),
        _on(receiver, "isGreaterThan", [receiver], "bool", _is_greater),
        _on(receiver, "compareTo", [receiver], "int", _compare),
    ]


QUANTITY_FUNCTIONS = [
    _plain("quantity", ["string"], QUANTITY, quantity),
    _plain("isQuantity", ["string"], "bool", _is_quantity),
    *_ordered(QUANTITY),
    _on(QUANTITY, "isInteger", [], "bool", _is_integer),
    _on(QUANTITY, "asInteger", [], "int", _as_integer),
    _on(QUANTITY, "asApproximateFloat", [], "double", _as_float),
    _plain("sign", [QUANTITY], "int", _sign),
    _on(QUANTITY, "sign", [], "int", _sign),  # as upstream's own documentation has it
    _on(QUANTITY, "add", [QUANTITY], QUANTITY, _add),
    _on(QUANTITY, "add", ["int"], QUANTITY, _add),
    _on(QUANTITY, "sub", [QUANTITY], QUANTITY, _sub),
    _on(QUANTITY, "sub", ["int"], QUANTITY, _sub),
]
SEMVER_FUNCTIONS = [
    _plain("semver", ["string"], SEMVER, semver),
    _plain("semver", ["string", "bool"], SEMVER, semver),
    _plain("isSemver", ["string"], "bool", _is_semver),
    _plain("isSemver", ["string", "bool"], "bool", _is_semver),
    *_ordered(SEMVER),
    _on(SEMVER, "major", [], "int", _version_part("major")),
    _on(SEMVER, "minor", [], "int", _version_part("minor")),
    _on(SEMVER, "patch", [], "int", _version_part("patch")),
]
_LIST = "list<A>"
LIST_FUNCTIONS = [
    _on(_LIST, "isSorted", [], "bool", _is_sorted),
    _on(_LIST, "sum", [], "A", _sum),
    _on(_LIST, "min", [], "A", _extreme("min", min)),
    _on(_LIST, "max", [], "A", _extreme("max", max)),
    Function("indexOf", _LIST, ("A",), "int", _index_of, list_receiver=True),
    Function("lastIndexOf", _LIST, ("A",), "int", _last_index_of, list_receiver=True),
]
INCLUDES_FUNCTIONS = [_on("dyn", "includes", ["dyn"], "bool", _includes)]
REGEX_FUNCTIONS = [
    _on("string", "find", ["string"], "string", _find),
    _on("string", "findAll", ["string"], "list<string>", _find_all),
    _on("string", "findAll", ["string", "int"], "list<string>", _find_all),
]
URL_FUNCTIONS = [
    _plain("url", ["string"], URL, lambda text: carry(parse_url(text))),
    _plain("isURL", ["string"], "bool", is_url),
    _on(URL, "getScheme", [], "string", _url_part("getScheme", lambda url: url.scheme)),
    _on(URL, "getHost", [], "string", _url_part("getHost", host_of)),
    _on(URL, "getHostname", [], "string", _url_part("getHostname", name_of)),
    _on(URL, "getPort", [], "string", _url_part("getPort", port_of)),
    _on(URL, "getEscapedPath", [], "string", _url_part("getEscapedPath", escaped_path)),
    _on(URL, "getQuery", [], "map<string,list<string>>", _url_part("getQuery", url_query)),
]
IP_FUNCTIONS = [
    _plain("ip", ["string"], IP, _ip),
    _plain("isIP", ["string"], "bool", lambda text: _succeeds(parse_ip, text)),
    _plain("ip.isCanonical", ["string"], "bool", _is_canonical),
    _on(IP, "family", [], "int", lambda value: _address("family", value).version),
    *(
        _on(IP, name, [], "bool", _address_flag(name, read))
        for name, read in (
            ("isUnspecified", lambda address: address.is_unspecified),
            ("isLoopback", lambda address: address.is_loopback),
            ("isLinkLocalMulticast", _is_link_local_multicast),
            ("isLinkLocalUnicast", lambda address: address.is_link_local),
            ("isGlobalUnicast", _is_global_unicast),
        )
    ),
    Function("string", "", (IP,), "string", _text_of, runtime_name="k8s.string"),
]
CIDR_FUNCTIONS = [
    _plain("cidr", ["string"], CIDR, lambda text: carry(parse_cidr(text))),
    _plain("isCIDR", ["string"], "bool", lambda text: _succeeds(parse_cidr, text)),
    _on(CIDR, "containsIP", [IP], "bool", _contains_ip),
    _on(CIDR, "containsIP", ["string"], "bool", _contains_ip),
    _on(CIDR, "containsCIDR", [CIDR], "bool", _contains_cidr),
    _on(CIDR, "containsCIDR", ["string"], "bool", _contains_cidr),
    _on(CIDR, "ip", [], IP, _ip),
    _on(CIDR, "masked", [], CIDR, _masked),
    _on(CIDR, "prefixLength", [], "int", lambda v: _network("prefixLength", v).network.prefixlen),
    Function("string", "", (CIDR,), "string", _text_of, runtime_name="k8s.string"),
]
FORMAT_FUNCTIONS = [
    *(_plain(f"format.{name}", [], FORMAT, _format(name)) for name in FORMATS),
    Function("format.named", "", ("string",), FORMAT, _named_format, optional=True),
    Function("validate", FORMAT, ("string",), "list<string>", _validate, optional=True),
]

# cel-go's names of the types that nothing can be iterated over.
_GO_TYPES = {
    "int": "types.Int",
    "double": "types.Double",
    "bool": "types.Bool",
    "string": "types.String",
    "bytes": "types.Bytes",
    "null": "types.Null",
    "timedelta": "types.Duration",
    "datetime": "types.Timestamp",
    QUANTITY: "cel.Quantity",
    SEMVER: "cel.Semver",
    IP: "cel.IP",
    CIDR: "cel.CIDR",
    URL: "cel.URL",
    FORMAT: "cel.Format",
}


def _iterable(value: Any) -> Any:
    """The value itself; cel-go's complaint if it is neither a list nor a map."""
    if isinstance(value, list | dict):
        return value
    name = type_name(uncarry(value))
    raise CelValueError(f"got '{_GO_TYPES.get(name, name)}', expected iterable type")


# Called by rewritten expressions only: the checker does not know them.
ITERABLE = Function("k8s.iterable", "", ("dyn",), "dyn", _iterable)
UNLIKE = Function("k8s.unlike", "", ("dyn", "dyn"), "bool", _unlike)


def _insert(into: Any, key: Any, value: Any) -> dict[Any, Any]:
    return _merge(into, {key: value})


def _merge(into: Any, more: Any) -> dict[Any, Any]:
    for key in more:
        if key in into:
            raise CelValueError(f"insert failed: key {key} already exists")
    return {**into, **more}


MAP_INSERTS = (
    Function("k8s.mapInsert", "", ("map", "dyn", "dyn"), "map", _insert),
    Function("k8s.mapInsert", "", ("map", "map"), "map", _merge),
)

KUBERNETES_FUNCTIONS: list[Function] = [
    *QUANTITY_FUNCTIONS,
    *SEMVER_FUNCTIONS,
    *LIST_FUNCTIONS,
    *REGEX_FUNCTIONS,
    *URL_FUNCTIONS,
    *IP_FUNCTIONS,
    *CIDR_FUNCTIONS,
    *FORMAT_FUNCTIONS,
]
