"""Label and field selectors: parsing as text and from documents, matching.

Grammar and messages of label selectors: apimachinery ``pkg/labels/selector.go``; of field
selectors: ``pkg/fields/selector.go``. Selectors are immutable values; parsed texts are cached.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from kubarium.api.catalog import Kind, SelectableField
from kubarium.api.formats import label_value, qualified_name
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError, FieldError, bad_request

Labels = Mapping[str, str]
_NO_LABELS: Labels = {}

IN, NOT_IN, EXISTS, ABSENT = "in", "notin", "exists", "!"
EQUALS, DOUBLE_EQUALS, NOT_EQUALS, GREATER, LESS = "=", "==", "!=", "gt", "lt"
_BINARY_OPERATORS = (IN, NOT_IN, EQUALS, DOUBLE_EQUALS, NOT_EQUALS, GREATER, LESS)
_SYMBOLS = {"=": EQUALS, "==": DOUBLE_EQUALS, "!=": NOT_EQUALS, ">": GREATER, "<": LESS}


@dataclass(frozen=True, slots=True)
class Requirement:
    """``key operator values``. ``operator`` is one of this module's constants."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """Whether ``labels`` meet it. NotIn and != hold for objects without the key."""
        found = labels.get(self.key)
        operator = self.operator
        if operator in (IN, EQUALS, DOUBLE_EQUALS):
            return found is not None and found in self.values
        if operator in (NOT_IN, NOT_EQUALS):
            return found is None or found not in self.values
        if operator == EXISTS:
            return found is not None
        if operator == ABSENT:
            return found is None
        return found is not None and _compare(found, operator, self.values[0])

    def __str__(self) -> str:
        if self.operator == EXISTS:
            return self.key
        if self.operator == ABSENT:
            return f"!{self.key}"
        if self.operator in (IN, NOT_IN):
            return f"{self.key} {self.operator} ({','.join(sorted(self.values))})"
        sign = {GREATER: ">", LESS: "<"}.get(self.operator, self.operator)
        return f"{self.key}{sign}{self.values[0]}"


def _compare(found: str, operator: str, bound: str) -> bool:
    try:
        left, right = int(found), int(bound)
    except ValueError:
        return False
    return left > right if operator == GREATER else left < right


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold. ``nothing`` matches no object at all (a null LabelSelector)."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    @property
    def empty(self) -> bool:
        """Whether every object matches."""
        return not self.requirements and not self.nothing

    def matches(self, labels: Labels | None) -> bool:
        """Whether an object with ``labels`` (None counts as no labels) is selected."""
        if self.nothing:
            return False
        present = labels or _NO_LABELS
        return all(requirement.matches(present) for requirement in self.requirements)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


EVERYTHING = Selector()
NOTHING = Selector(nothing=True)


def requirement(key: str, operator: str, values: tuple[str, ...]) -> Requirement:
    """A checked requirement; ApiError 400 with apimachinery's complaint."""
    errors = []
    complaints = qualified_name(key)
    if complaints:
        errors.append(FieldError("Invalid", "key", key, "; ".join(complaints)))
    if operator in (IN, NOT_IN) and not values:
        detail = "for 'in', 'notin' operators, values set can't be empty"
        errors.append(FieldError("Invalid", "values", [], detail))
    if operator in (GREATER, LESS) and re.fullmatch(r"[-+]?[0-9]{1,19}", values[0]) is None:
        detail = "for 'Gt', 'Lt' operators, the value must be an integer"
        errors.append(FieldError("Invalid", "values[0]", values[0], detail))
    for index, value in enumerate(values):
        complaints = label_value(value)
        if complaints:
            path = f"values[{index}][{key}]"
            errors.append(FieldError("Invalid", path, value, "; ".join(complaints)))
    if errors:
        texts = [str(error) for error in errors]
        raise bad_request(texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]")
    return Requirement(key, operator, values)


# --- label selectors as text ---------------------------------------------------------------------


@lru_cache(maxsize=4096)
def parse_labels(text: str) -> Selector:
    """A label selector such as ``app=web,tier in (a, b),!canary``; ApiError 400 if malformed.

    >>> str(parse_labels("b in (y, x), a, !c,d!=1"))
    'a,b in (x,y),!c,d!=1'
    """
    parser = _LabelParser(_tokens(text))
    return Selector(tuple(sorted(parser.requirements(), key=lambda item: item.key)))


_TOKEN = re.compile(r"[ \t\r\n]*(?:(==|!=|[=<>(),!])|([^ \t\r\n=<>(),!]+))")


def _tokens(text: str) -> list[tuple[bool, str]]:
    """(is a symbol, text) of each token."""
    found = []
    position = 0
    end = len(text.rstrip(" \t\r\n"))
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:  # cannot happen: every character is a symbol, a space or a word's
            raise bad_request(f"unable to parse requirement: found '{text[position]}'")
        found.append((match[1] is not None, match[1] or match[2]))
        position = match.end()
    return found


def _expected(found: str, what: str) -> ApiError:
    return bad_request(f"found '{found}', expected: {what}")


class _LabelParser:
    """Recursive descent over tokens, with upstream's order of complaints."""

    def __init__(self, tokens: list[tuple[bool, str]]) -> None:
        self._tokens = tokens
        self._at = 0

    def _peek(self) -> tuple[bool, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else (True, "")

    def _take(self) -> tuple[bool, str]:
        token = self._peek()
        self._at += 1
        return token

    def requirements(self) -> list[Requirement]:
        found: list[Requirement] = []
        while True:
            symbol, text = self._peek()
            if symbol and text == "":
                return found
            if symbol and text != "!":
                raise _expected(text, "!, identifier, or 'end of string'")
            try:
                found.append(self._requirement())
            except ApiError as error:
                raise bad_request(f"unable to parse requirement: {error.message}") from None
            symbol, text = self._take()
            if symbol and text == "":
                return found
            if not symbol or text != ",":
                raise _expected(text, "',' or 'end of string'")
            symbol, text = self._peek()
            if symbol and text != "!":
                raise _expected(text, "identifier after ','")

    def _requirement(self) -> Requirement:
        absent = self._peek() == (True, "!")
        if absent:
            self._take()
        symbol, key = self._take()
        if symbol:
            raise _expected(key, "identifier")
        complaints = qualified_name(key)
        if complaints:
            raise bad_request(str(FieldError("Invalid", "<nil>", key, "; ".join(complaints))))
        if absent:
            return requirement(key, ABSENT, ())
        if self._peek() in ((True, ""), (True, ",")):
            return requirement(key, EXISTS, ())
        symbol, text = self._take()
        operator = _SYMBOLS.get(text) if symbol else text if text in (IN, NOT_IN) else None
        if operator is None:
            raise _expected(text, ", ".join(_BINARY_OPERATORS))
        if operator in (IN, NOT_IN):
            return requirement(key, operator, self._values())
        return requirement(key, operator, (self._exact_value(),))

    def _exact_value(self) -> str:
        symbol, text = self._peek()
        if symbol and text in ("", ","):
            return ""
        if symbol:
            raise _expected(text, "identifier")
        return self._take()[1]

    def _values(self) -> tuple[str, ...]:
        symbol, text = self._take()
        if not symbol or text != "(":
            raise bad_request(f"found '{text}' expected: '('")
        values: list[str] = []
        while True:  # "()" is the empty value, as "(,)" is
            symbol, text = self._peek()
            if not symbol:
                values.append(self._take()[1])
            elif text in (",", ")"):
                values.append("")
            else:
                raise _expected(text, "',', ')' or identifier")
            symbol, text = self._take()
            if symbol and text == ")":
                return tuple(dict.fromkeys(values))
            if not symbol or text != ",":
                raise _expected(text, "',' or ')'")


# --- label selectors as documents ----------------------------------------------------------------

_DOCUMENT_OPERATORS = {"In": IN, "NotIn": NOT_IN, "Exists": EXISTS, "DoesNotExist": ABSENT}


def label_selector(document: Document | None) -> Selector:
    """``metav1.LabelSelector``: None selects nothing, an empty one everything.

    ApiError 400 for an operator that does not exist or values that do not fit it.
    """
    if document is None:
        return NOTHING
    labels = document.get("matchLabels") or {}
    found = [Requirement(key, EQUALS, (value,)) for key, value in sorted(labels.items())]
    for expression in document.get("matchExpressions") or ():
        operator = _DOCUMENT_OPERATORS.get(expression.get("operator", ""))
        if operator is None:
            shown = expression.get("operator", "")
            raise bad_request(f'"{shown}" is not a valid label selector operator')
        values = tuple(expression.get("values") or ())
        found.append(requirement(expression.get("key", ""), operator, values))
    return Selector(tuple(found))


def selects(document: Document | None, labels: Labels) -> bool:
    """Whether a ``metav1.LabelSelector`` selects the labels; one that cannot be read selects none.

    For whoever asks many objects in turn, of which one that says nonsense must not hide the rest.
    """
    try:
        return label_selector(document).matches(labels)
    except ApiError:
        return False


def label_map_selector(labels: Labels | None) -> Selector:
    """The plain map of Services and ReplicationControllers; an empty one selects nothing."""
    if not labels:
        return NOTHING
    return Selector(tuple(Requirement(k, EQUALS, (v,)) for k, v in sorted(labels.items())))


# --- field selectors -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FieldTerm:
    """``field=value`` or, negated, ``field!=value``."""

    name: str
    value: str
    negated: bool
    field: SelectableField

    def matches(self, document: Document) -> bool:
        return (self.field.read(document) == self.value) is not self.negated


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All terms must hold."""

    requirements: tuple[FieldTerm, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether every object matches."""
        return not self.requirements

    def matches(self, document: Document) -> bool:
        return all(term.matches(document) for term in self.requirements)

    def exact(self, name: str) -> str | None:
        """The value that a field must have, if one term says so (``metadata.name``, indexes)."""
        for term in self.requirements:
            if term.name == name and not term.negated:
                return term.value
        return None

    def __str__(self) -> str:
        return ",".join(
            f"{term.name}{'!=' if term.negated else '='}{term.value}" for term in self.requirements
        )


ALL_FIELDS = FieldSelector()


def parse_fields(text: str, kind: Kind) -> FieldSelector:
    """A field selector such as ``status.phase=Running,spec.nodeName!=a`` on objects of ``kind``.

    ApiError 400 if it is malformed or names a field that the kind does not offer.
    """
    if not text:
        return ALL_FIELDS
    terms = []
    for part in sorted(_split_terms(text)):
        if not part:
            continue
        name, operator, raw = _split_term(part)
        if not operator:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        selectable = kind.selectable_fields.get(name)
        if selectable is None:
            raise _unknown_field_label(kind, name)
        terms.append(FieldTerm(name, _unescape(raw), operator == NOT_EQUALS, selectable))
    return FieldSelector(tuple(terms))


def selected_name(text: str) -> str:
    """The one ``metadata.name`` that a field selector lets through; "" if it is not one's.

    For rights on single objects, asked before the kind is looked up: a malformed selector, or the
    name of no object, selects nothing here.
    """
    for part in sorted(_split_terms(text)):
        field, operator, raw = _split_term(part)
        if field == "metadata.name" and operator in (EQUALS, DOUBLE_EQUALS):
            return raw if raw not in (".", "..") and not set(raw) & set("/%\\") else ""
    return ""


def _unknown_field_label(kind: Kind, name: str) -> ApiError:
    known = list(kind.selectable_fields)
    if kind.custom or len(known) > len(("metadata.name", "metadata.namespace")):
        return bad_request(f"field label not supported: {name}")
    shown = ", ".join(f'"{label}"' for label in known)
    return bad_request(f'"{name}" is not a known field selector: only {shown}')


def _split_terms(text: str) -> list[str]:
    """At commas that no backslash escapes."""
    parts, start, escaped = [], 0, False
    for index, char in enumerate(text):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == ",":
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def _split_term(part: str) -> tuple[str, str, str]:
    for index in range(len(part)):
        for operator in (NOT_EQUALS, DOUBLE_EQUALS, EQUALS):
            if part.startswith(operator, index):
                return part[:index], operator, part[index + len(operator) :]
    return part, "", ""


def _unescape(text: str) -> str:
    result, index = [], 0
    while index < len(text):
        char = text[index]
        if char == "\\":
            index += 1
            follower = text[index : index + 1]
            if follower not in ("\\", ",", "="):
                raise bad_request(f"invalid field selector: invalid escape sequence: \\{follower}")
            char = follower
        elif char in ",=":
            raise bad_request(f"invalid field selector: unescaped character in value: {char}")
        result.append(char)
        index += 1
    return "".join(result)
