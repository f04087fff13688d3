"""IP addresses and CIDRs as Kubernetes' ``ip()`` and ``cidr()`` take them.

What is wrong with one is said in the words of Go's ``net/netip``, as upstream passes them on.
Sources: ``netip.go``, apiserver ``cel/library/ip.go`` and ``cidr.go``.
"""

from __future__ import annotations

import ipaddress
import json
import re

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_CIDR_FAULT = "network address parse error during conversion from string: "
_GROUPS = 8
_HEX = re.compile("[0-9A-Fa-f]*")


class AddressError(ValueError):
    """No address or CIDR; the text is upstream's."""


def read_ip(text: str) -> Address:
    """An address; no zone and no IPv4-mapped IPv6."""
    fault = address_fault(text)
    if fault:
        raise AddressError(
            f"IP Address {quoted(text)} parse error during conversion from string: {fault}"
        )
    if "%" in text:
        raise AddressError(f"IP address {quoted(text)} with zone value is not allowed")
    address = ipaddress.ip_address(text)
    _refuse_mapped(address, text)
    return address


def read_cidr(text: str) -> Network:
    """An address with a prefix length; host bits are kept."""
    fault = _prefix_fault(text)
    if fault:
        raise AddressError(f"{_CIDR_FAULT * 2}netip.ParsePrefix({quoted(text)}): {fault}")
    network = ipaddress.ip_interface(text)
    _refuse_mapped(network.ip, text, _CIDR_FAULT)
    return network


def _refuse_mapped(address: Address, text: str, prefix: str = "") -> None:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        raise AddressError(f"{prefix}IPv4-mapped IPv6 address {quoted(text)} is not allowed")


def _prefix_fault(text: str) -> str:
    address, slash, bits = text.rpartition("/")
    if not slash:
        return "no '/'"
    fault = address_fault(address)
    if fault:
        return fault
    if "%" in address:
        return "IPv6 zones cannot be present in a prefix"
    if not re.fullmatch("0|[1-9][0-9]*", bits) or int(bits) >= 2**63:
        return f"bad bits after slash: {quoted(bits)}"
    most = 128 if ":" in address else 32
    return "prefix length out of range" if int(bits) > most else ""


def address_fault(text: str) -> str:
    """What Go's ``netip.ParseAddr`` says of a text; "" of an address, zones among them."""
    first = re.search("[.:%]", text)
    if first is None:
        said, at = "unable to parse IP", ""
    elif first[0] == "%":
        said, at = "missing IPv6 address", ""
    else:
        said, at = _ipv4_fault(text) if first[0] == "." else _ipv6_fault(text)
    where = f" (at {quoted(at)})" if at else ""
    return f"ParseAddr({quoted(text)}): {said}{where}" if said else ""


def _ipv4_fault(text: str) -> tuple[str, str]:
    """What is wrong, and the rest of the text from where it is; ("", "") if nothing."""
    octet, octets = "", 1
    for index, char in enumerate(text):
        if char == ".":
            if not octet or index == len(text) - 1:
                return "IPv4 field must have at least one digit", text[index:]
            octet, octets = "", octets + 1
            if octets > 4:
                return "IPv4 address too long", ""
        elif char not in "0123456789":
            return "unexpected character", text[index:]
        elif octet == "0":
            return "IPv4 field has octet with leading zero", ""
        else:
            octet += char
            if int(octet) > 255:
                return "IPv4 field has value >255", ""
    return ("IPv4 address too short", "") if octets < 4 else ("", "")


def _ipv6_fault(text: str) -> tuple[str, str]:
    """As :func:`_ipv4_fault`."""
    rest, percent, zone = text.partition("%")
    if percent and not zone:
        return "zone must be a non-empty string", ""
    short = rest.startswith("::")
    rest = rest[2:] if short else rest
    if short and not rest:
        return "", ""
    groups = 0
    while groups < _GROUPS:
        digits = len(_HEX.match(rest)[0])  # type: ignore[index]
        if fault := _group_fault(rest, digits, groups, short):
            return fault
        if rest[digits : digits + 1] == ".":
            fault = _ipv4_fault(rest)
            if fault[0]:
                return fault
            groups, rest = groups + 2, ""
            break
        groups, rest = groups + 1, rest[digits:]
        if not rest:
            break
        if fault := _colon_fault(rest, short):
            return fault
        if rest.startswith("::"):
            short, rest = True, rest[2:]
            if not rest:
                break
        else:
            rest = rest[1:]
    return _end_fault(rest, groups, short)


def _group_fault(rest: str, digits: int, groups: int, short: bool) -> tuple[str, str] | None:
    if digits > 4:
        return "each group must have 4 or less digits", rest
    if not digits:
        return "each colon-separated field must have at least one digit", rest
    if rest[digits : digits + 1] != ".":
        return None
    if not short and groups != _GROUPS - 2:
        return "embedded IPv4 address must replace the final 2 fields of the address", rest
    if groups > _GROUPS - 2:
        at_end = "too many hex fields to fit an embedded IPv4 at the end of the address"
        return at_end, rest
    return None


def _colon_fault(rest: str, short: bool) -> tuple[str, str] | None:
    if rest[0] != ":":
        return "unexpected character, want colon", rest
    if rest == ":":
        return "colon must be followed by more characters", rest
    if short and rest.startswith("::"):
        return "multiple :: in address", rest[1:]
    return None


def _end_fault(rest: str, groups: int, short: bool) -> tuple[str, str]:
    if rest:
        return "trailing garbage after address", rest
    if groups < _GROUPS and not short:
        return "address string too short", ""
    if groups == _GROUPS and short:
        return "the :: must expand to at least one field of zeros", ""
    return "", ""


def quoted(text: str) -> str:
    """In quotation marks, as Go's %q nearly always has it."""
    return json.dumps(text, ensure_ascii=False)
