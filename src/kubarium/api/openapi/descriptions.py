"""Descriptions of built-in types, read from the installed lightkube-models when they are asked for.

The models' source text is scanned, not imported: importing a module means building hundreds of
dataclasses that nothing else here uses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_CLASS = re.compile(r'^class (\w+)\(\w+\):\n    r?"""(.*?)"""', re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^      \* \*\*(\w+)\*\* ``.*?`` - ?", re.MULTILINE)
_PARAMETERS = "**parameters**"

# Where a definition's package is not ``<group>.<version>``.
_MODULES = {
    "io.k8s.apimachinery.pkg.api.resource": "resource",
    "io.k8s.apimachinery.pkg.runtime": "runtime",
    "io.k8s.apimachinery.pkg.util.intstr": "util_intstr",
    "io.k8s.apimachinery.pkg.version": "version",
}
# lightkube spells names that Python cannot: JSONSchemaProps has four, the others one each.
_SPELLINGS = {"d_ref": "$ref", "d_schema": "$schema"}


@dataclass(frozen=True, slots=True)
class TypeDescription:
    """A type's own text and those of its fields, by JSON name."""

    text: str = ""
    fields: dict[str, str] = field(default_factory=dict)


_NOTHING = TypeDescription()


def describe(definition: str) -> TypeDescription:
    """What upstream says about a definition (``io.k8s.api.core.v1.Pod``); empty if unknown."""
    package, _, name = definition.rpartition(".")
    module = _MODULES.get(package) or "_".join(package.split(".")[-2:])
    return _module(module).get(name, _NOTHING)


@lru_cache(maxsize=8)
def _module(name: str) -> dict[str, TypeDescription]:
    path = _models_folder() / f"{name}.py"
    if not path.is_file():
        return {}
    source = path.read_text(encoding="utf-8")
    return {match[1]: _parse(match[2]) for match in _CLASS.finditer(source)}


@lru_cache(maxsize=1)
def _models_folder() -> Path:
    try:
        found = distribution("lightkube-models").locate_file("lightkube/models")
    except PackageNotFoundError:
        return Path("/nonexistent")
    return Path(str(found))


def _parse(docstring: str) -> TypeDescription:
    text, _, parameters = docstring.partition(_PARAMETERS)
    marks = list(_FIELD.finditer(parameters))
    ends = [mark.start() for mark in marks[1:]] + [len(parameters)]
    fields = {
        _json_name(mark[1]): _unwrap(parameters[mark.end() : end])
        for mark, end in zip(marks, ends, strict=True)
    }
    return TypeDescription(_unwrap(text), fields)


def _json_name(name: str) -> str:
    if name.startswith("x_kubernetes_"):
        return name.replace("_", "-")
    return _SPELLINGS.get(name, name.rstrip("_"))


def _unwrap(text: str) -> str:
    """Lines of a paragraph joined; paragraphs and list items kept apart."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(_joined(paragraph) for paragraph in paragraphs)


def _joined(paragraph: str) -> str:
    lines: list[str] = []
    for line in paragraph.split("\n"):
        stripped = line.strip()
        if lines and not re.match(r"[-*] |\d+\. ", stripped):
            lines[-1] += f" {stripped}"
        else:
            lines.append(stripped)
    return "\n".join(lines)
