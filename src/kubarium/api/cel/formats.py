"""Kubernetes' named string formats and what is wrong with a text that does not fit.

Source of rules and wording: apimachinery ``pkg/util/validation/validation.go`` and apiserver
``pkg/cel/library/format.go``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import date, datetime

from kubarium.api.cel.values import CelValueError, parse_url

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_LABEL_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_UUID = r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}"

Check = Callable[[str], list[str]]


def _limited(pattern: str, limit: int, says: str) -> Check:
    compiled = re.compile(pattern)

    def check(text: str) -> list[str]:
        errors = [f"must be no more than {limit} characters"] if len(text) > limit else []
        if not compiled.fullmatch(text):
            errors.append(f"{says} (regex used for validation is '{pattern}')")
        return errors

    return check


_LABEL_SAYS = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and "
    "must start and end with an alphanumeric character"
)
_SUBDOMAIN_SAYS = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character"
)
_LABEL_1035_SAYS = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
    "alphabetic character, and end with an alphanumeric character"
)
_NAME_SAYS = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end "
    "with an alphanumeric character"
)
_VALUE_SAYS = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character"
)

_label = _limited(_LABEL, 63, _LABEL_SAYS)
_subdomain = _limited(_SUBDOMAIN, 253, _SUBDOMAIN_SAYS)
_label_1035 = _limited(_LABEL_1035, 63, _LABEL_1035_SAYS)
_name_part = _limited(_QUALIFIED, 63, _NAME_SAYS)


def _prefix_of(check: Check) -> Check:
    """A prefix for generated names may end in a dash."""
    return lambda text: check(text[:-1] + "a" if len(text) > 1 and text.endswith("-") else text)


def _qualified_name(text: str) -> list[str]:
    prefix, slash, name = text.rpartition("/")
    errors = []
    if slash and not prefix:
        errors.append("prefix part must be non-empty")
    elif slash:
        errors += [f"prefix part {error}" for error in _subdomain(prefix)]
    if not name:
        errors.append("name part must be non-empty")
    return errors + ([] if not name else _name_part(name))


def _parses(parse: Callable[[str], object], says: str) -> Check:
    def check(text: str) -> list[str]:
        try:
            parse(text)
        except (ValueError, CelValueError, binascii.Error):
            return [says]
        return []

    return check


def _base64(text: str) -> bytes:
    if not text:
        raise ValueError("empty")  # as upstream's pattern has it
    return base64.b64decode(text, validate=True)


def _date_time(text: str) -> datetime:
    if not re.match(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}", text):
        raise ValueError(text)
    return datetime.fromisoformat(text.upper().replace("Z", "+00:00"))


FORMATS: dict[str, Check] = {
    "dns1123Label": _label,
    "dns1123Subdomain": _subdomain,
    "dns1035Label": _label_1035,
    "dns1123LabelPrefix": _prefix_of(_label),
    "dns1123SubdomainPrefix": _prefix_of(_subdomain),
    "dns1035LabelPrefix": _prefix_of(_label_1035),
    "qualifiedName": _qualified_name,
    "labelValue": _limited(rf"({_QUALIFIED})?", 63, _VALUE_SAYS),
    "uri": _parses(parse_url, "must be a valid URI"),
    "uuid": _limited(_UUID, 36, "does not match the UUID format"),
    "byte": _parses(_base64, "invalid base64"),
    "date": _parses(date.fromisoformat, "invalid date"),
    "datetime": _parses(_date_time, "invalid datetime"),
}
