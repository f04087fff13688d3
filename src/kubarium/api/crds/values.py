"""Values against a schema, in the wording of kube-openapi's validator.

Used for whole custom resources, for defaults in definitions, and for the built-in pieces (pod
specs) inside custom resources. Types are checked here because decoding leaves them alone.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import orjson

from kubarium.api.formats import cidr, ip_address
from kubarium.api.paths import Key, Path, path_text
from kubarium.api.schema import Schema
from kubarium.base.clock import parse_rfc3339
from kubarium.base.errors import FieldError
from kubarium.base.quantity import QuantityError, parse_quantity

MAX_ERRORS = 100  # of one document; the rest would only repeat the lesson
_QUANTITY = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)


def check_value(schema: Schema, value: Any, path: Path = None) -> list[FieldError]:
    """All that is wrong with ``value``, at most ``MAX_ERRORS`` complaints."""
    checker = _Checker()
    checker.value(schema, value, path)
    return checker.errors[:MAX_ERRORS]


def type_name(value: Any) -> str:
    """The OpenAPI type of a JSON value.

    >>> [type_name(v) for v in (None, True, 1, 1.5, "", [], {})]
    ['null', 'boolean', 'integer', 'number', 'string', 'array', 'object']
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    names: dict[type, str] = {float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "object")


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str] | None:
    """RE2 and Python agree on nearly everything; what Python cannot read matches all."""
    try:
        return re.compile(text.replace(r"\z", r"\Z"))
    except re.error:
        return None


class _Checker:
    """One walk; complaints in document order."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []

    def _add(self, kind: str, path: Path, value: Any, detail: str) -> None:
        self.errors.append(FieldError(kind, path_text(path), value, detail))

    def _invalid(self, path: Path, value: Any, what: str) -> None:
        self._add("Invalid", path, value, f"{path_text(path)} in body {what}".lstrip())

    def value(self, schema: Schema, value: Any, path: Path) -> None:
        """Check one value and everything below."""
        if len(self.errors) >= MAX_ERRORS:
            return
        if value is None and schema.nullable:
            return
        if not self._type_fits(schema, value, path):
            return
        if schema.enum and value not in schema.enum:
            shown = ", ".join(orjson.dumps(choice).decode() for choice in schema.enum)
            self._add("NotSupported", path, value, f"supported values: {shown}")
        if isinstance(value, dict):
            self._object(schema, value, path)
        elif isinstance(value, list):
            self._array(schema, value, path)
        elif isinstance(value, str):
            self._string(schema, value, path)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            self._number(schema, value, path)
        self._combinations(schema, value, path)

    def _type_fits(self, schema: Schema, value: Any, path: Path) -> bool:
        found = type_name(value)
        if schema.quantity:
            return self._quantity(value, found, path)
        if schema.int_or_string:
            fits, wanted = found in ("integer", "string"), "integer,string"
        elif not schema.type:
            return True
        else:
            wanted = schema.type
            fits = found == wanted or (wanted == "number" and found == "integer")
        if not fits:
            where = path_text(path)
            shown = f'"{found}"'
            detail = f"{where} in body must be of type {wanted}: {shown}".lstrip()
            self._add("TypeInvalid", path, found, detail)
        return fits

    def _quantity(self, value: Any, found: str, path: Path) -> bool:
        if found in ("string", "integer", "number"):
            try:
                parse_quantity(value)
                return True
            except QuantityError:
                pass
        self._add("Invalid", path, value, _QUANTITY)
        return False

    # --- objects and arrays ----------------------------------------------------------------------

    def _object(self, schema: Schema, value: dict[str, Any], path: Path) -> None:
        for name in schema.required:
            if name not in value:
                self._add("Required", (path, name), "", "")
        count = len(value)
        if schema.max_properties is not None and count > schema.max_properties:
            detail = f"must have at most {schema.max_properties} items"
            self._add("TooMany", path, count, detail)
        if schema.min_properties is not None and count < schema.min_properties:
            self._invalid(path, value, f"should have at least {schema.min_properties} properties")
        fields, values = schema.fields(), schema.additional
        for name, item in value.items():
            child = fields.get(name)
            if child is not None:
                self.value(child, item, (path, name))
            elif values is not None:
                self.value(values, item, (path, Key(name)))

    def _array(self, schema: Schema, value: list[Any], path: Path) -> None:
        count = len(value)
        if schema.max_items is not None and count > schema.max_items:
            unit = "item" if schema.max_items == 1 else "items"
            self._add("TooMany", path, count, f"must have at most {schema.max_items} {unit}")
        if schema.min_items is not None and count < schema.min_items:
            self._invalid(path, count, f"should have at least {schema.min_items} items")
        if schema.items is not None:
            for index, item in enumerate(value):
                self.value(schema.items, item, (path, index))
        if schema.list_type in ("set", "map"):
            self._unique(schema, value, path)
        elif schema.unique_items and len({_identity(item) for item in value}) < count:
            self._invalid(path, value, "shouldn't contain duplicates")

    def _unique(self, schema: Schema, value: list[Any], path: Path) -> None:
        seen: set[bytes] = set()
        for index, item in enumerate(value):
            key = item
            if schema.list_type == "map":
                if not isinstance(item, dict):
                    continue
                key = {name: self._key(schema, item, name) for name in schema.list_map_keys}
            identity = _identity(key)
            if identity in seen:
                self._add("Duplicate", (path, index), key, "")
            seen.add(identity)

    def _key(self, schema: Schema, item: dict[str, Any], name: str) -> Any:
        child = schema.items.field(name) if schema.items is not None else None
        return item.get(name, child.default if child is not None else None)

    # --- scalars ---------------------------------------------------------------------------------

    def _string(self, schema: Schema, value: str, path: Path) -> None:
        if schema.max_length is not None and len(value) > schema.max_length:
            unit = "byte" if schema.max_length == 1 else "bytes"
            self._add("TooLong", path, "", f"may not be more than {schema.max_length} {unit}")
        if schema.min_length is not None and len(value) < schema.min_length:
            self._invalid(path, value, f"should be at least {schema.min_length} chars long")
        if schema.pattern:
            compiled = _pattern(schema.pattern)
            if compiled is not None and compiled.search(value) is None:
                self._invalid(path, value, f"should match '{schema.pattern}'")
        check = FORMATS.get(schema.format)
        if check is not None and not check(value):
            shown = orjson.dumps(value).decode()
            self._invalid(path, value, f"must be of type {schema.format}: {shown}")

    def _number(self, schema: Schema, value: float, path: Path) -> None:
        low, high = schema.minimum, schema.maximum
        if low is not None:
            if schema.exclusive_minimum and value <= low:
                self._invalid(path, value, f"should be greater than {_number(low)}")
            elif value < low:
                what = f"should be greater than or equal to {_number(low)}"
                self._invalid(path, value, what)
        if high is not None:
            if schema.exclusive_maximum and value >= high:
                self._invalid(path, value, f"should be less than {_number(high)}")
            elif value > high:
                self._invalid(path, value, f"should be less than or equal to {_number(high)}")
        bits = {"int32": 31, "int64": 63}.get(schema.format)
        if bits is not None and not -(2**bits) <= value < 2**bits:
            self._invalid(path, value, f'must be of type {schema.format}: "{value}"')
        if schema.multiple_of and value % schema.multiple_of:
            self._invalid(path, value, f"should be a multiple of {_number(schema.multiple_of)}")

    # --- combinations ----------------------------------------------------------------------------

    def _combinations(self, schema: Schema, value: Any, path: Path) -> None:
        if not (schema.all_of or schema.any_of or schema.one_of or schema.not_ is not None):
            return  # most values; the path in words is worth saving
        where = f'"{path_text(path)}"' if path else '""'
        for branch in schema.all_of:
            self.value(branch, value, path)
        if schema.any_of and not any(_passes(branch, value) for branch in schema.any_of):
            detail = f"{where} must validate at least one schema (anyOf)"
            self._add("Invalid", path, value, detail)
        if schema.one_of:
            passed = sum(_passes(branch, value) for branch in schema.one_of)
            if passed != 1:
                found = "Found none valid" if not passed else f"Found {passed} valid alternatives"
                detail = f"{where} must validate one and only one schema (oneOf). {found}"
                self._add("Invalid", path, value, detail)
        if schema.not_ is not None and _passes(schema.not_, value):
            self._add("Invalid", path, value, f"{where} must not validate the schema (not)")


def _passes(schema: Schema, value: Any) -> bool:
    return not check_value(schema, value)


def _identity(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _is_time(text: str) -> bool:
    try:
        parse_rfc3339(text)
    except ValueError:
        return False
    return len(text) > len("2006-01-02") and text[10] in "Tt "


def _is_date(text: str) -> bool:
    return re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) is not None


def _is_bytes(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


_DURATION = re.compile(r"[-+]?([0-9]*(\.[0-9]*)?(ns|us|µs|μs|ms|s|m|h|d|w))+|0")
_UUID = re.compile(r"(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_HOSTNAME = re.compile(
    r"(?i)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*"
)


def _is_ip(version: str) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        return not ip_address(text) and (":" in text) == (version == "6")

    return check


FORMATS: dict[str, Callable[[str], bool]] = {
    "date-time": _is_time,
    "date": _is_date,
    "byte": _is_bytes,
    "duration": lambda text: _DURATION.fullmatch(text) is not None,
    "uuid": lambda text: _UUID.fullmatch(text) is not None,
    "email": lambda text: _EMAIL.fullmatch(text) is not None,
    "hostname": lambda text: _HOSTNAME.fullmatch(text) is not None,
    "ipv4": _is_ip("4"),
    "ipv6": _is_ip("6"),
    "cidr": lambda text: not cidr(text),
}
