"""Kubernetes' CEL types as values that cel-cpp can carry.

cel-cpp has no place for foreign objects, so that a quantity, a version or an address travels as
bytes: a tag and a canonical text. Canonical means that equal values have equal bytes, so ``==``,
``in`` and map keys work without our help. The type checker keeps them apart from real bytes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, total_ordering
from typing import Any
from urllib.parse import SplitResult, parse_qs

from kubarium.api.cel.addresses import Address, AddressError, Network, quoted, read_cidr, read_ip
from kubarium.api.cel.urls import UrlError, check_url, joined, read_url, split
from kubarium.base.quantity import QuantityError, parse_quantity

_TAG = b"\x01k8s:"  # no NUL: cel-cpp's Python binding cuts bytes there


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
    text = _normalized(text) if normalize else text
    match = _SEMVER.fullmatch(text)
    if match is None or any(len(n) > 19 and int(n) >= 2**64 for n in _NUMERIC.findall(text)):
        raise CelValueError(_semver_fault(text))
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
            return f"Invalid character(s) found in build meta data {quoted(part)}"
    return "invalid semantic version"


def _number_fault(name: str, text: str) -> str:
    if not re.fullmatch("[0-9]*", text):
        return f"Invalid character(s) found in {name.lower()} number {quoted(text)}"
    if len(text) > 1 and text[0] == "0":
        return f"{name} number must not contain leading zeroes {quoted(text)}"
    return _uint_fault(text)


def _pre_release_fault(text: str) -> str:
    if not text:
        return "Prerelease is empty"
    if not re.fullmatch("[0-9]+", text):
        if _LETTERS.fullmatch(text):
            return ""
        return f"Invalid character(s) found in prerelease {quoted(text)}"
    if len(text) > 1 and text[0] == "0":
        return f"Numeric PreRelease version must not contain leading zeroes {quoted(text)}"
    return _uint_fault(text)


def _uint_fault(text: str) -> str:
    if text and int(text) < 2**64:
        return ""
    why = "value out of range" if text else "invalid syntax"
    return f"strconv.ParseUint: parsing {quoted(text)}: {why}"


def _normalized(text: str) -> str:
    """Without "v" and leading zeroes, and with all three numbers (upstream: normalizeAndParse)."""
    parts = text.removeprefix("v").split(".", 2)
    for index, part in enumerate(parts):
        if len(part.encode()) > 1:
            bare = part.lstrip("0")
            parts[index] = bare if re.match("[0-9]", bare) else "0" + bare
    if len(parts) < 3 and re.search("[+-]", parts[-1]):
        raise CelValueError("short version cannot contain PreRelease/Build meta data")
    return ".".join(parts + ["0"] * (3 - len(parts)))


# --- addresses and URLs -------------------------------------------------------------------------


def parse_ip(text: str) -> Address:
    """An address; no zone and no IPv4-mapped IPv6, as in Kubernetes' ``ip()``."""
    try:
        return read_ip(text)
    except AddressError as error:
        raise CelValueError(str(error)) from None


def parse_cidr(text: str) -> Network:
    """An address with a prefix length; host bits are kept."""
    try:
        return read_cidr(text)
    except AddressError as error:
        raise CelValueError(str(error)) from None


def parse_url(text: str) -> SplitResult:
    """An absolute URL or an absolute path, as Go's ``url.ParseRequestURI``."""
    try:
        return read_url(text)
    except UrlError as error:
        raise CelValueError(str(error)) from None


def is_url(text: str) -> bool:
    """Whether it is a URL as a request may name it."""
    try:
        check_url(text)
    except UrlError:
        return False
    return True


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
        return _tagged(b"url", joined(value))
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
    b"url": split,
    b"format": Format,
}


def uncarry(value: Any) -> Any:
    """The value behind carried bytes; anything else as it is."""
    return _uncarry(bytes(value)) if isinstance(value, bytearray | bytes) else value
