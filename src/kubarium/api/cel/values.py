"""Kubernetes' CEL types as values that cel-cpp can carry.

cel-cpp has no place for foreign objects, so that a quantity, a version or an address travels as
bytes: a tag and a canonical text. Canonical means that equal values have equal bytes, so ``==``,
``in`` and map keys work without our help. The type checker keeps them apart from real bytes.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, total_ordering
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from kubarium.base.quantity import QuantityError, parse_quantity

_TAG = b"\x01k8s:"  # no NUL: cel-cpp's Python binding cuts bytes there
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class CelValueError(ValueError):
    """A function got a value that it cannot work with; becomes a CEL runtime error."""


# --- semantic versions --------------------------------------------------------------------------

_SEMVER = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(?:-((?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
    r"(?:\.(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
)


@total_ordering
@dataclass(frozen=True, slots=True)
class Semver:
    """A semantic version 2.0.0 without its build part, which does not count in comparisons."""

    major: int
    minor: int
    patch: int
    pre: tuple[int | str, ...] = ()

    def _order(self) -> tuple[Any, ...]:
        release = not self.pre
        ranked = tuple((isinstance(p, str), p) for p in self.pre)
        return (self.major, self.minor, self.patch, release, ranked)

    def __lt__(self, other: Semver) -> bool:
        return self._order() < other._order()

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        return text + ("-" + ".".join(map(str, self.pre)) if self.pre else "")


def parse_semver(text: str, normalize: bool = False) -> Semver:
    """A version; with ``normalize``, "v1.2" and "01.2.3" are taken too (as blang/semver does).

    >>> str(parse_semver("v1.02", normalize=True))
    '1.2.0'
    """
    match = _SEMVER.fullmatch(_normalized(text) if normalize else text)
    if match is None or any(len(n) > 19 and int(n) >= 2**64 for n in _NUMERIC.findall(text)):
        raise CelValueError(_semver_fault(_normalized(text) if normalize else text))
    major, minor, patch, pre, _ = match.groups()
    parts = tuple(int(p) if p.isdigit() else p for p in pre.split(".")) if pre else ()
    return Semver(int(major), int(minor), int(patch), parts)


_NUMERIC = re.compile("[0-9]+")
_LETTERS = re.compile("[0-9A-Za-z-]*")


def _semver_fault(text: str) -> str:
    """What is wrong with a version, in the words of blang/semver."""
    if not text:
        return "Version string empty"
    parts = text.split(".", 2)
    if len(parts) < 3:
        return "No Major.Minor.Patch elements found"
    rest, plus, build = parts[2].partition("+")
    patch, dash, pre = rest.partition("-")
    for name, number in (("Major", parts[0]), ("Minor", parts[1]), ("Patch", patch)):
        if fault := _number_fault(name, number):
            return fault
    for part in pre.split(".") if dash else ():
        if fault := _pre_release_fault(part):
            return fault
    for part in build.split(".") if plus else ():
        if not part:
            return "Build meta data is empty"
        if not _LETTERS.fullmatch(part):
            return f"Invalid character(s) found in build meta data {_quoted(part)}"
    return "invalid semantic version"


def _number_fault(name: str, text: str) -> str:
    if not re.fullmatch("[0-9]*", text):
        return f"Invalid character(s) found in {name.lower()} number {_quoted(text)}"
    if len(text) > 1 and text[0] == "0":
        return f"{name} number must not contain leading zeroes {_quoted(text)}"
    return _uint_fault(text)


def _pre_release_fault(text: str) -> str:
    if not text:
        return "Prerelease is empty"
    if not re.fullmatch("[0-9]+", text):
        if _LETTERS.fullmatch(text):
            return ""
        return f"Invalid character(s) found in prerelease {_quoted(text)}"
    if len(text) > 1 and text[0] == "0":
        return f"Numeric PreRelease version must not contain leading zeroes {_quoted(text)}"
    return _uint_fault(text)


def _uint_fault(text: str) -> str:
    if text and int(text) < 2**64:
        return ""
    why = "value out of range" if text else "invalid syntax"
    return f"strconv.ParseUint: parsing {_quoted(text)}: {why}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _normalized(text: str) -> str:
    text = text.removeprefix("v")
    match = re.fullmatch(r"([0-9.]*)(.*)", text, re.DOTALL)
    numbers, tail = match.groups() if match else (text, "")
    parts = [part.lstrip("0") or "0" if part else part for part in numbers.split(".")]
    if tail and len(parts) < 3:
        return text  # upstream: no minor or patch may be missing before a pre-release or build
    return ".".join(parts + ["0"] * (3 - len(parts))) + tail


# --- addresses and URLs -------------------------------------------------------------------------


def parse_ip(text: str) -> Address:
    """An address; no zone and no IPv4-mapped IPv6, as in Kubernetes' ``ip()``."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise CelValueError(
            f"IP Address {_quoted(text)} parse error during conversion from string"
        ) from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            raise CelValueError(f"IP address {_quoted(text)} with zone value is not allowed")
        if address.ipv4_mapped:
            raise CelValueError(f"IPv4-mapped IPv6 address {_quoted(text)} is not allowed")
    return address


def parse_cidr(text: str) -> Network:
    """An address with a prefix length; host bits are kept."""
    address, slash, length = text.partition("/")
    if not slash or not length.isascii() or not length.isdigit():
        raise CelValueError(f"network address parse error during conversion from string: {text!r}")
    parse_ip(address)
    try:
        return ipaddress.ip_interface(text)
    except ValueError:
        raise CelValueError(
            f"network address parse error during conversion from string: {text!r}"
        ) from None


def parse_url(text: str) -> SplitResult:
    """An absolute URL or an absolute path, as Go's ``url.ParseRequestURI``."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise CelValueError(f"URL parse error during conversion from string: {error}") from None
    bad = any(ord(char) <= 32 or ord(char) == 127 for char in text)
    if bad or not text or not (parts.scheme or text.startswith("/")):
        raise CelValueError(
            f"URL parse error during conversion from string: invalid URI for request: {text!r}"
        )
    return parts


def url_query(parts: SplitResult) -> dict[str, list[str]]:
    """The query as a map of lists."""
    return parse_qs(parts.query, keep_blank_values=True)


# --- carrying them ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Format:
    """A named string format of the ``format`` library."""

    name: str


def _tagged(kind: bytes, text: str) -> bytes:
    return _TAG + kind + b":" + text.encode()


@lru_cache(maxsize=8192)
def quantity(text: str) -> bytes:
    """The carried form of a quantity. Raises CelValueError."""
    try:
        return carry(parse_quantity(text))
    except QuantityError:
        raise CelValueError(
            "quantities must match the regular expression "
            "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        ) from None


@lru_cache(maxsize=8192)
def semver(text: str, normalize: bool = False) -> bytes:
    """The carried form of a version. Raises CelValueError."""
    return carry(parse_semver(text, normalize))


def carry(value: Any) -> bytes:
    """The bytes that stand for a value of one of our types."""
    if isinstance(value, Fraction):
        return _tagged(b"quantity", f"{value.numerator}/{value.denominator}")
    if isinstance(value, Semver):
        return _tagged(b"semver", str(value))
    if isinstance(value, ipaddress.IPv4Interface | ipaddress.IPv6Interface):
        return _tagged(b"cidr", str(value))
    if isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return _tagged(b"ip", str(value))
    if isinstance(value, SplitResult):
        return _tagged(b"url", value.geturl())
    if isinstance(value, Format):
        return _tagged(b"format", value.name)
    raise CelValueError(f"{type(value).__name__} is no Kubernetes CEL type")


@lru_cache(maxsize=8192)
def _uncarry(data: bytes) -> Any:
    if not data.startswith(_TAG):
        return data
    kind, _, text = data[len(_TAG) :].partition(b":")
    return _READERS[kind](text.decode())


_READERS: dict[bytes, Callable[[str], Any]] = {
    b"quantity": Fraction,
    b"semver": parse_semver,
    b"ip": ipaddress.ip_address,
    b"cidr": ipaddress.ip_interface,
    b"url": urlsplit,
    b"format": Format,
}


def uncarry(value: Any) -> Any:
    """The value behind carried bytes; anything else as it is."""
    return _uncarry(bytes(value)) if isinstance(value, bytearray | bytes) else value
