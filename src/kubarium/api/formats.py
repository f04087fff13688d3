"""Formats of names and values, each as a function that says what is wrong with a text.

A check returns the complaints, in apimachinery's wording (``pkg/util/validation/validation.go``,
``pkg/api/validate/content``); an empty tuple means that the text is fine. Answers are cached: the
same few thousand names and label values pass by all the time.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache

Check = Callable[[str], tuple[str, ...]]
OK: tuple[str, ...] = ()

LABEL_MAX = 63
SUBDOMAIN_MAX = 253

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_LABEL_UNDERSCORED = r"[a-z0-9_]([-_a-z0-9]*[a-z0-9])?"
_UNDERSCORED = rf"{_LABEL_UNDERSCORED}(\.{_LABEL_UNDERSCORED})*"
_LABEL_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_NAME_PART = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = rf"({_NAME_PART})?"
_C_IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
_CONFIG_KEY = r"[-._a-zA-Z0-9]+"
_PERCENT = r"[0-9]+%"
_HTTP_HEADER = r"[-A-Za-z0-9]+"

_is_label = re.compile(_LABEL.replace("(", "(?:")).fullmatch
_is_subdomain = re.compile(_SUBDOMAIN.replace("(", "(?:")).fullmatch

_CACHE = lru_cache(maxsize=16384)


def too_long(limit: int) -> str:
    """``must be no more than 63 bytes``."""
    return f"must be no more than {limit} bytes"


EMPTY = "must be non-empty"


def between(low: int, high: int) -> str:
    """``must be between 1 and 65535, inclusive``."""
    return f"must be between {low} and {high}, inclusive"


def _regex_complaint(message: str, pattern: str, *examples: str) -> str:
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{message} (e.g. {shown}regex used for validation is '{pattern}')"


_NAME_PART_COMPLAINT = _regex_complaint(
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character",
    _NAME_PART,
    "MyName",
    "my.name",
    "123-abc",
)


@_CACHE
def dns_label(text: str) -> tuple[str, ...]:
    """An RFC 1123 label of at most 63 characters.

    >>> dns_label("web-1"), len(dns_label("-"))
    ((), 1)
    """
    complaints = [too_long(LABEL_MAX)] if len(text) > LABEL_MAX else []
    if not _is_label(text):
        if _is_subdomain(text):
            complaints.append("must not contain dots")
        else:
            complaints.append(
                _regex_complaint(
                    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters "
                    "or '-', and must start and end with an alphanumeric character",
                    _LABEL,
                    "my-name",
                    "123-abc",
                )
            )
    return tuple(complaints)


@_CACHE
def dns_subdomain(text: str) -> tuple[str, ...]:
    """An RFC 1123 subdomain of at most 253 characters: labels joined by dots."""
    complaints = [too_long(SUBDOMAIN_MAX)] if len(text) > SUBDOMAIN_MAX else []
    if not _is_subdomain(text):
        complaints.append(
            _regex_complaint(
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric "
                "characters, '-' or '.', and must start and end with an alphanumeric character",
                _SUBDOMAIN,
                "example.com",
            )
        )
    return tuple(complaints)


def masked_subdomain(text: str) -> tuple[str, ...]:
    """A subdomain, or the beginning of one: a trailing dash does no harm."""
    return dns_subdomain(masked_prefix(text))


def underscored_subdomain(text: str) -> tuple[str, ...]:
    """A subdomain whose labels may have underscores too, as search paths of DNS have."""
    complaints = [too_long(SUBDOMAIN_MAX)] if len(text) > SUBDOMAIN_MAX else []
    if re.fullmatch(_UNDERSCORED, text) is None:
        complaints.append(
            _regex_complaint(
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric "
                "characters, '_', '-' or '.', and must start and end with an alphanumeric "
                "character",
                _UNDERSCORED,
                "example.com",
            )
        )
    return tuple(complaints)


@_CACHE
def dns_subdomain_any_case(text: str) -> tuple[str, ...]:
    """As :func:`dns_subdomain`, in letters of either case."""
    complaints = [too_long(SUBDOMAIN_MAX)] if len(text) > SUBDOMAIN_MAX else []
    if not _is_subdomain(text.lower()):
        complaints.append(
            _regex_complaint(
                "an RFC 1123 subdomain must consist of alphanumeric characters, '-' or '.', and "
                "must start and end with an alphanumeric character",
                _SUBDOMAIN,
                "Example.com",
            )
        )
    return tuple(complaints)


@_CACHE
def dns1035_label(text: str) -> tuple[str, ...]:
    """An RFC 1035 label: like a DNS label, but it starts with a letter (Services)."""
    complaints = [too_long(LABEL_MAX)] if len(text) > LABEL_MAX else []
    if re.fullmatch(_LABEL_1035, text) is None:
        complaints.append(
            _regex_complaint(
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start "
                "with an alphabetic character, and end with an alphanumeric character",
                _LABEL_1035,
                "my-name",
                "abc-123",
            )
        )
    return tuple(complaints)


@_CACHE
def qualified_name(text: str) -> tuple[str, ...]:
    """``name`` or ``domain/name``: keys of labels, annotations, resources; finalizers."""
    prefix, slash, name = text.rpartition("/")
    if prefix.count("/"):
        complaint = _NAME_PART_COMPLAINT.replace("must consist", "a valid label key must consist")
        optional = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        return (f"{complaint} {optional}",)
    complaints = []
    if slash and not prefix:
        complaints.append(f"prefix part {EMPTY}")
    elif slash:
        complaints += [f"prefix part {complaint}" for complaint in dns_subdomain(prefix)]
    if not name:
        complaints.append(f"name part {EMPTY}")
    elif len(name) > LABEL_MAX:
        complaints.append(f"name part {too_long(LABEL_MAX)}")
    if re.fullmatch(_NAME_PART, name) is None:
        complaints.append(f"name part {_NAME_PART_COMPLAINT}")
    return tuple(complaints)


@_CACHE
def label_value(text: str) -> tuple[str, ...]:
    """The value of a label: empty, or at most 63 characters of a name part."""
    complaints = [too_long(LABEL_MAX)] if len(text) > LABEL_MAX else []
    if re.fullmatch(_LABEL_VALUE, text) is None:
        complaints.append(
            _regex_complaint(
                "a valid label must be an empty string or consist of alphanumeric characters, '-', "
                "'_' or '.', and must start and end with an alphanumeric character",
                _LABEL_VALUE,
                "MyValue",
                "my_value",
                "12345",
            )
        )
    return tuple(complaints)


@_CACHE
def c_identifier(text: str) -> tuple[str, ...]:
    """A C identifier (device attribute names)."""
    if re.fullmatch(_C_IDENTIFIER, text):
        return OK
    return (
        _regex_complaint(
            "a valid C identifier must start with alphabetic character or '_', followed by a "
            "string of alphanumeric characters or '_'",
            _C_IDENTIFIER,
            "my_name",
            "MY_NAME",
            "MyName",
        ),
    )


@_CACHE
def env_var_name(text: str) -> tuple[str, ...]:
    """An environment variable's name: printable ASCII without ``=``."""
    if not text:
        return (f"environment variable name {EMPTY}",)
    if all("\x20" <= char <= "\x7e" and char != "=" for char in text):
        return OK
    return (
        "a valid environment variable name must consist only of printable ASCII characters other "
        "than '='",
    )


def config_map_key(text: str) -> tuple[str, ...]:
    """A key of a ConfigMap or Secret: a file name."""
    complaints = [too_long(SUBDOMAIN_MAX)] if len(text) > SUBDOMAIN_MAX else []
    if re.fullmatch(_CONFIG_KEY, text) is None:
        complaints.append(
            _regex_complaint(
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
                _CONFIG_KEY,
                "key.name",
                "KEY_NAME",
                "key-name",
            )
        )
    if text in (".", ".."):
        complaints.append(f"must not be '{text}'")
    elif text.startswith(".."):
        complaints.append("must not start with '..'")
    return tuple(complaints)


@_CACHE
def port_name(text: str) -> tuple[str, ...]:
    """An IANA service name of at most 15 characters."""
    complaints = ["must be no more than 15 characters"] if len(text) > 15 else []
    if re.fullmatch(r"[-a-z0-9]+", text) is None:
        complaints.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if re.search(r"[a-z]", text) is None:
        complaints.append("must contain at least one letter (a-z)")
    if "--" in text:
        complaints.append("must not contain consecutive hyphens")
    if text.startswith("-") or text.endswith("-"):
        complaints.append("must not begin or end with a hyphen")
    return tuple(complaints)


def port_number(value: int) -> tuple[str, ...]:
    """A TCP or UDP port that can be reached."""
    return OK if 1 <= value <= 65535 else (between(1, 65535),)


def percent(text: str) -> tuple[str, ...]:
    """``25%``."""
    if re.fullmatch(_PERCENT, text):
        return OK
    return (
        _regex_complaint(
            "a valid percent string must be a numeric string followed by an ending '%'",
            _PERCENT,
            "1%",
            "93%",
        ),
    )


_PRE = r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
_BUILD = r"[0-9a-zA-Z-]+"
_SEMVER = re.compile(
    rf"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-{_PRE}(\.{_PRE})*)?(\+{_BUILD}(\.{_BUILD})*)?",
    re.ASCII,
)


def semantic_version(text: str) -> tuple[str, ...]:
    """A version of a device's attribute: three numbers without leading zeros, and what semver.org
    lets follow them."""
    if _SEMVER.fullmatch(text):
        return OK
    return ("must be a string compatible with semver.org spec 2.0.0",)


def http_header_name(text: str) -> tuple[str, ...]:
    """The name of an HTTP header."""
    if re.fullmatch(_HTTP_HEADER, text):
        return OK
    return (
        _regex_complaint(
            "a valid HTTP header must consist of alphanumeric characters or '-'",
            _HTTP_HEADER,
            "X-Header-Name",
        ),
    )


_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_PLAIN_IPV4 = re.compile(rf"{_BYTE}(?:\.{_BYTE}){{3}}")


@_CACHE
def ip_address(text: str) -> tuple[str, ...]:
    """An IPv4 or IPv6 address that all software reads alike (upstream: StrictIPCIDRValidation)."""
    if _PLAIN_IPV4.fullmatch(text):
        return OK
    try:
        address = ipaddress.ip_address(_without_zeros(text))
    except ValueError:
        return ("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",)
    if "%" in text:
        return ("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",)
    return _ambiguities(text, address)


def _without_zeros(text: str) -> str:
    """An IPv4 address without zeros in front, which some read as octal numbers."""
    if "." not in text:
        return text
    colons, mark, last = text.rpartition(":")
    return colons + mark + re.sub(r"\b0+(?=[0-9])", "", last)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _ambiguities(text: str, address: _Address) -> tuple[str, ...]:
    if _without_zeros(text) != text:
        return ("must not have leading 0s",)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return ("must not be an IPv4-mapped IPv6 address",)
    return OK


@_CACHE
def cidr(text: str) -> tuple[str, ...]:
    """A network in CIDR notation."""
    address, slash, bits = text.partition("/")
    try:
        if slash and bits.isdigit():
            network = ipaddress.ip_interface(f"{_without_zeros(address)}/{bits}")
            return _network_ambiguities(address, bits, network)
    except ValueError:
        pass
    return ("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",)


def _network_ambiguities(
    address: str, bits: str, network: ipaddress.IPv4Interface | ipaddress.IPv6Interface
) -> tuple[str, ...]:
    if _without_zeros(address) != address or str(int(bits)) != bits:
        return ("must not have leading 0s in IP or prefix length",)
    if _ambiguities(address, network.ip):
        return ("must not have an IPv4-mapped IPv6 address",)
    if network.ip != network.network.network_address:
        return ("must not have bits set beyond the prefix length",)
    return OK


def path_segment(text: str) -> tuple[str, ...]:
    """A name that only has to fit into a URL path (RBAC objects)."""
    if text in (".", ".."):
        return (f"may not be '{text}'",)
    return tuple(f"may not contain '{char}'" for char in "/%" if char in text)


def domain_prefixed(text: str) -> tuple[str, ...]:
    """``domain/path``, such as a Job's ``managedBy``."""
    prefix, slash, path = text.partition("/")
    if not slash or not prefix or not path:
        return ('must be a domain-prefixed path (such as "acme.io/foo")',)
    return dns_subdomain(prefix)


def masked_prefix(prefix: str) -> str:
    """A ``generateName`` as its format is checked: a trailing dash will get a suffix.

    >>> masked_prefix("web-"), masked_prefix("-")
    ('wea', '-')
    """
    return prefix[:-2] + "a" if len(prefix) > 1 and prefix.endswith("-") else prefix


def domain_prefixed_key(text: str) -> tuple[str, ...]:
    """A label key with a domain."""
    complaints = qualified_name(text)
    if not complaints and "/" not in text:
        complaints = ('must be a domain-prefixed key (such as "acme.io/foo")',)
    return complaints
