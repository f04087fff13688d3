"""What a printer is: column definitions and a function from a document to its cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kubarium.api.resource import Document
from kubarium.api.selectors import label_selector
from kubarium.api.tables.durations import since
from kubarium.base.errors import ApiError

NONE = "<none>"
UNSET = "<unset>"
Cells = Callable[[Document, float], list[Any]]


@dataclass(frozen=True, slots=True)
class Printer:
    """``cells(document, now)`` gives one value for each column."""

    columns: tuple[Document, ...]
    cells: Cells
    conditions: Callable[[Document], list[Document] | None] | None = None


def column(
    name: str,
    type_: str = "string",
    *,
    wide: int = 0,
    format_: str = "",
    description: str = "",
) -> Document:
    """A column definition; ``wide`` above 0 shows it with ``-o wide`` only."""
    return {
        "name": name,
        "type": type_,
        "format": format_,
        "description": description,
        "priority": int(wide),
    }


def name_column() -> Document:
    """The first column of nearly all kinds."""
    return column("Name", format_="name", description="Name of the object, unique in its scope.")


def columns(text: str) -> tuple[Document, ...]:
    """Name, and the columns of a text: ``|`` between them, ``+`` before wide ones, ``:type``.

    >>> [c["name"] for c in columns("Ready|Restarts:integer|+Node")]
    ['Name', 'Ready', 'Restarts', 'Node']
    """
    found = [name_column()]
    for part in text.split("|"):
        name, _, type_ = part.partition(":")
        found.append(column(name.lstrip("+"), type_ or "string", wide=part.startswith("+")))
    return tuple(found)


def printer(text: str, cells: Cells) -> Printer:
    """A printer whose first cell is the object's name; ``cells`` gives the rest."""

    def all_cells(document: Document, now: float) -> list[Any]:
        return [document["metadata"].get("name", ""), *cells(document, now)]

    return Printer(columns(text), all_cells)


def age(document: Document, now: float) -> str:
    """How long ago the object was created."""
    return since(document["metadata"].get("creationTimestamp"), now)


def spec_of(document: Document) -> Document:
    found: Document = document.get("spec") or {}
    return found


def status_of(document: Document) -> Document:
    found: Document = document.get("status") or {}
    return found


def joined_labels(labels: Mapping[str, Any] | None) -> str:
    """``a=b,c=d`` in order of keys, or ``<none>``."""
    if not labels:
        return NONE
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels))


_OPERATORS = {"In": "in", "NotIn": "notin"}


def selector_text(selector: Document | None) -> str:
    """A LabelSelector as ``kubectl`` shows it."""
    if selector is None or not selector:
        return NONE
    try:
        return str(label_selector(selector)) or NONE
    except ApiError:
        return "<error>"


def container_names(template: Document | None) -> str:
    return ",".join(c.get("name", "") for c in _containers(template))


def container_images(template: Document | None) -> str:
    return ",".join(c.get("image", "") for c in _containers(template))


def _containers(template: Document | None) -> list[Document]:
    found: list[Document] = ((template or {}).get("spec") or {}).get("containers") or []
    return found


def condition(document: Document, type_: str) -> Document | None:
    """The condition of a type, or None."""
    for entry in status_of(document).get("conditions") or ():
        if entry.get("type") == type_:
            found: Document = entry
            return found
    return None


def is_true(document: Document, type_: str) -> bool:
    """Whether a condition stands and is True."""
    found = condition(document, type_)
    return found is not None and found.get("status") == "True"
