"""``meta.k8s.io/v1`` Tables: what ``kubectl get`` shows, with upstream's columns and values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kubarium.api.catalog import Kind, PrinterColumn
from kubarium.api.resource import Document
from kubarium.api.tables import cluster, devices, extensions, pods, policies, services, workloads
from kubarium.api.tables.columns import Printer, age, column, name_column
from kubarium.api.tables.durations import since
from kubarium.api.tables.jsonpath import first_match, render

_PRINTERS: dict[tuple[str, str], Printer] = {
    **pods.PRINTERS,
    **workloads.PRINTERS,
    **services.PRINTERS,
    **cluster.PRINTERS,
    **policies.PRINTERS,
    **devices.PRINTERS,
    **extensions.PRINTERS,
}

_DEFAULT = Printer(
    (name_column(), column("Age")),
    lambda document, now: [document["metadata"].get("name", ""), age(document, now)],
)


def table(
    kind: Kind,
    documents: Iterable[Document],
    now: float,
    list_metadata: Document | None = None,
    include_object: str = "Metadata",
) -> Document:
    """A Table of ``documents`` at time ``now`` (seconds since the epoch).

    ``list_metadata`` is the ListMeta to carry (resourceVersion, continue); ``include_object`` is
    "Metadata" (a PartialObjectMetadata in each row), "Object" or "None".
    """
    printer = printer_of(kind)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata or {},
        "columnDefinitions": [dict(definition) for definition in printer.columns],
        "rows": [row(printer, document, now, include_object) for document in documents],
    }


def row(printer: Printer, document: Document, now: float, include_object: str) -> Document:
    """One row: cells, and the object in the form that the client asked for."""
    entry: Document = {"cells": printer.cells(document, now)}
    conditions = printer.conditions(document) if printer.conditions else None
    if conditions:
        entry["conditions"] = conditions
    if include_object == "Object":
        entry["object"] = document
    elif include_object != "None":
        entry["object"] = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": document.get("metadata", {}),
        }
    return entry


def printer_of(kind: Kind) -> Printer:
    """The printer of a kind: upstream's, the definition's own columns, or name and age."""
    if kind.columns is not None:
        return _custom_printer(kind.columns)
    return _PRINTERS.get((kind.resource.group, kind.resource.kind), _DEFAULT)


def _custom_printer(columns: tuple[PrinterColumn, ...]) -> Printer:
    definitions = [name_column()]
    readers: list[Callable[[Document, float], Any]] = []
    for entry in columns:
        definitions.append(
            column(
                entry.name,
                entry.type,
                wide=entry.priority,
                format_=entry.format,
                description=entry.description,
            )
        )
        readers.append(_custom_reader(entry))

    def cells(document: Document, now: float) -> list[Any]:
        name = document["metadata"].get("name", "")
        return [name, *(read(document, now) for read in readers)]

    return Printer(tuple(definitions), cells)


def _custom_reader(entry: PrinterColumn) -> Callable[[Document, float], Any]:
    def read(document: Document, now: float) -> Any:
        found, value = first_match(entry.json_path, document)
        if not found:
            return None
        if entry.type == "string":
            return render(value)
        if entry.type == "date":
            return since(value, now) if isinstance(value, str) else None
        return _typed_cell(entry.type, value)

    return read


def _typed_cell(type_: str, value: Any) -> Any:
    if type_ == "boolean":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if type_ == "integer" else value
