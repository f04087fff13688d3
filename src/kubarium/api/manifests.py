"""YAML as Kubernetes reads it, and what both decoders share: limits, duplicates, names of types."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson
import yaml

from kubarium.api.paths import Path, path_text
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError, bad_request

# Deeper documents than this are refused: nothing legitimate comes near, and every recursive
# function behind the decoder may then rely on it.
MAX_DEPTH = 200
# A YAML document may not grow beyond this many nodes by aliases ("billion laughs").
MAX_YAML_NODES = 500_000


def json_type(value: Any) -> str:
    """The JSON type of a value as Go's decoder names it.

    >>> json_type(1), json_type([]), json_type(None), json_type(False)
    ('number', 'array', 'null', 'bool')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    names = ((str, "string"), ((int, float), "number"), (list, "array"), (dict, "object"))
    return next((name for type_, name in names if isinstance(value, type_)), "value")


class DuplicateKeys:
    """Remembers which mappings gave a key twice, and tells their paths once the tree stands."""

    def __init__(self) -> None:
        self.found: dict[int, list[str]] = {}

    def build(self, pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in pairs:
            if key in mapping:
                self.found.setdefault(id(mapping), []).append(key)
            mapping[key] = value
        return mapping

    def paths(self, value: Any, path: Path = None) -> Iterator[str]:
        if isinstance(value, dict):
            for key in self.found.get(id(value), ()):
                yield path_text((path, key))
            for key, child in value.items():
                yield from self.paths(child, (path, key))
        elif isinstance(value, list):
            for index, child in enumerate(value):
                yield from self.paths(child, (path, index))


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: plain scalars resolve to JSON's types only (no timestamps,
    no base-60 numbers), keys are strings, aliases are allowed."""

    duplicates: DuplicateKeys


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool",
    re.compile(r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$"),
    list("yYnNtTfFoO"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0b[0-1_]+|0o?[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)


def _construct_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "").lower()
    digits = text.lstrip("+-")
    sign = -1 if text.startswith("-") else 1
    for prefix, radix in (("0b", 2), ("0o", 8), ("0x", 16)):
        if digits.startswith(prefix):
            return sign * int(digits[2:], radix)
    return sign * int(digits, 8 if len(digits) > 1 and digits[0] == "0" else 10)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    own = len(node.value)
    merges = [pair for pair in node.value if pair[0].tag == "tag:yaml.org,2002:merge"]
    loader.flatten_mapping(node)
    inherited = len(node.value) - (own - len(merges))
    pairs = [
        (_key_text(loader.construct_object(key, deep=True)), loader.construct_object(v, deep=True))
        for key, v in node.value
    ]
    mapping = dict(pairs[:inherited])
    explicit = loader.duplicates.build(pairs[inherited:])
    merged = mapping | explicit
    if id(explicit) in loader.duplicates.found:
        loader.duplicates.found[id(merged)] = loader.duplicates.found.pop(id(explicit))
    return merged


def _key_text(key: Any) -> str:
    if isinstance(key, str):
        return key
    return orjson.dumps(key).decode() if isinstance(key, (bool, int, float)) else str(key)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
# Only who writes the tag has one: JSON knows no times.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _construct_text)


def decode_yaml(body: bytes | str) -> tuple[Any, list[str]]:
    """The value of one YAML document and the paths of keys given twice; 400 if malformed."""
    documents = list(_yaml_documents(body))
    if len(documents) > 1:
        raise bad_request("error decoding request body: yaml: one document expected, got several")
    return documents[0] if documents else (None, [])


def load_manifests(text: bytes | str) -> list[Document]:
    """All documents of a manifest file, empty ones left out, Lists as they stand.

    Raises ApiError 400 with line and column if it is malformed, gives a key twice, or holds
    something that is not an object.
    """
    documents: list[Document] = []
    for number, (value, duplicates) in enumerate(_yaml_documents(text), 1):
        if value is None:
            continue
        if not isinstance(value, dict):
            raise bad_request(f"document {number}: an object is expected, got {json_type(value)}")
        if duplicates:
            raise bad_request(f'document {number}: duplicate field "{duplicates[0]}"')
        documents.append(value)
    return documents


_LIBYAML_TOO_DEEP = "exceeded maximum nesting depth"


def _yaml_documents(body: bytes | str) -> Iterator[tuple[Any, list[str]]]:
    try:
        loader = _Loader(body)
        while loader.check_data():  # type: ignore[no-untyped-call]
            loader.duplicates = DuplicateKeys()
            value = loader.get_data()
            budget = [MAX_YAML_NODES]
            duplicates = list(loader.duplicates.paths(value)) if loader.duplicates.found else []
            yield _expanded(value, budget, 0), list(dict.fromkeys(duplicates))
    except yaml.YAMLError as error:
        if _LIBYAML_TOO_DEEP in str(error):  # newer libraries give up by themselves, at 1,000
            raise too_deep() from None
        raise bad_request(f"error decoding request body: yaml: {_yaml_trouble(error)}") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise bad_request(f"error decoding request body: yaml: {error}") from None
    except RecursionError:
        raise too_deep() from None


def too_deep() -> ApiError:
    """400: the document nests deeper than ``MAX_DEPTH``."""
    return bad_request(f"error decoding request body: it nests deeper than {MAX_DEPTH} levels")


def _expanded(value: Any, budget: list[int], depth: int) -> Any:
    """A copy in which aliases are no longer shared, with JSON's types only."""
    budget[0] -= 1
    if budget[0] < 0:
        raise bad_request(
            f"error decoding request body: yaml: more than {MAX_YAML_NODES} nodes after aliases"
        )
    if depth > MAX_DEPTH:
        raise too_deep()
    if isinstance(value, dict):
        return {key: _expanded(item, budget, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, budget, depth + 1) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value)  # as JSON decoders do with integers beyond 64 bits
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


def _yaml_trouble(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    if mark is None:
        return problem
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
