"""From a CustomResourceDefinition document to served kinds and its own status."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import orjson

from kubarium.api.catalog import Kind, PrinterColumn, ScalePaths, SelectableField
from kubarium.api.crds.schema import root_schema
from kubarium.api.resource import Document, Resource, copy_document
from kubarium.base.clock import rfc3339

AGE_COLUMN = PrinterColumn("Age", "date", ".metadata.creationTimestamp")


def kinds_of(crd: Document) -> list[Kind]:
    """The kinds that a definition serves, storage version first.

    With ``conversion.strategy: Webhook`` only the storage version is served: no webhook is called
    here. With ``None`` all versions share one shape, as upstream assumes too. The definition must
    have passed validation.
    """
    spec = crd["spec"]
    versions = sorted(spec["versions"], key=lambda version: not version.get("storage"))
    stored = next((v["name"] for v in versions if v.get("storage")), versions[0]["name"])
    if spec.get("conversion", {}).get("strategy") == "Webhook":
        versions = [version for version in versions if version["name"] == stored]
    return [_kind(spec, version, stored) for version in versions if version.get("served")]


def _kind(spec: Document, version: Document, stored: str) -> Kind:
    names, group = spec["names"], spec["group"]
    namespaced = spec.get("scope") == "Namespaced"

    def resource(name: str) -> Resource:
        return Resource(group, name, names["plural"], names["kind"], namespaced)

    subresources = version.get("subresources") or {}
    return Kind(
        resource=resource(version["name"]),
        schema=root_schema((version.get("schema") or {}).get("openAPIV3Schema") or {}),
        storage=resource(stored),
        singular=names.get("singular") or names["kind"].lower(),
        list_kind=names.get("listKind") or f"{names['kind']}List",
        short_names=tuple(names.get("shortNames", ())),
        categories=tuple(names.get("categories", ())),
        subresources=frozenset(name for name in ("status", "scale") if name in subresources),
        selectable_fields=_selectable(version, namespaced),
        columns=_columns(version),
        scale=_scale(subresources.get("scale")),
        custom=True,
        deprecation_warning=_deprecation(spec, version),
    )


def _selectable(version: Document, namespaced: bool) -> dict[str, SelectableField]:
    fields = {"metadata.name": SelectableField(("metadata", "name"))}
    if namespaced:
        fields["metadata.namespace"] = SelectableField(("metadata", "namespace"))
    for entry in version.get("selectableFields", ()):
        name = entry["jsonPath"].removeprefix(".")
        fields[name] = SelectableField(tuple(name.split(".")))
    return fields


def _columns(version: Document) -> tuple[PrinterColumn, ...]:
    columns = version.get("additionalPrinterColumns")
    if not columns:
        return (AGE_COLUMN,)
    return tuple(
        PrinterColumn(
            column["name"],
            column.get("type", "string"),
            column["jsonPath"],
            column.get("description", ""),
            column.get("format", ""),
            column.get("priority", 0),
        )
        for column in columns
    )


def _scale(paths: Document | None) -> ScalePaths | None:
    if paths is None:
        return None

    def steps(key: str) -> tuple[str, ...]:
        text = paths.get(key) or ""
        return tuple(step for step in text.split(".") if step)

    return ScalePaths(
        steps("specReplicasPath"), steps("statusReplicasPath"), steps("labelSelectorPath")
    )


def _deprecation(spec: Document, version: Document) -> str:
    if not version.get("deprecated"):
        return ""
    default = f"{spec['group']}/{version['name']} {spec['names']['kind']} is deprecated"
    return version.get("deprecationWarning") or default


# --- status --------------------------------------------------------------------------------------


def established_status(crd: Document, taken: Iterable[Kind], now: float) -> Document:
    """The status of a definition: accepted names, NamesAccepted and Established.

    ``taken`` are the kinds that others serve; a name of theirs in the same group is refused with
    ``MultipleNamesConflict`` semantics: the first conflict is reported and nothing is established.
    Times of conditions that did not change are kept.
    """
    group, names = crd["spec"]["group"], crd["spec"]["names"]
    conflict = _name_conflict(names, [kind for kind in taken if kind.resource.group == group])
    status: Document = copy_document(crd.get("status") or {})
    if conflict:
        wanted = [
            ("NamesAccepted", "False", *conflict),
            ("Established", "False", "NotAccepted", "not all names are accepted"),
        ]
    else:
        wanted = [
            ("NamesAccepted", "True", "NoConflicts", "no conflicts found"),
            ("Established", "True", "InitialNamesAccepted", "the initial names have been accepted"),
        ]
        status["acceptedNames"] = copy_document(names)
    status["conditions"] = _conditions(status.get("conditions") or [], wanted, rfc3339(now))
    status.setdefault("acceptedNames", {"kind": "", "plural": ""})
    stored = [v["name"] for v in crd["spec"]["versions"] if v.get("storage")]
    known = status.setdefault("storedVersions", [])
    known.extend(name for name in stored if name not in known)
    return status


def _name_conflict(names: Document, taken: list[Kind]) -> tuple[str, str] | None:
    routes = {kind.resource.plural for kind in taken} | {kind.singular for kind in taken}
    routes |= {short for kind in taken for short in kind.short_names}
    kinds = {kind.resource.kind for kind in taken} | {kind.list_kind for kind in taken}
    for key, reason in (("plural", "PluralConflict"), ("singular", "SingularConflict")):
        if names.get(key) and names[key] in routes:
            return reason, f'"{names[key]}" is already in use'
    for short in names.get("shortNames", ()):
        if short in routes:
            return "ShortNamesConflict", f'"{short}" is already in use'
    for key, reason in (("kind", "KindConflict"), ("listKind", "ListKindConflict")):
        if names.get(key) and names[key] in kinds:
            return reason, f'"{names[key]}" is already in use'
    return None


def _conditions(
    old: list[Document], wanted: list[tuple[str, str, str, str]], now: str
) -> list[Document]:
    known = {condition["type"]: condition for condition in old}
    for type_, status, reason, message in wanted:
        before = known.get(type_, {})
        since = before.get("lastTransitionTime", now) if before.get("status") == status else now
        known[type_] = {
            "type": type_,
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": since,
        }
    return list(known.values())


# --- bundled definitions -------------------------------------------------------------------------


def bundled() -> list[Document]:
    """The definitions that come with Kubarium (Kueue, JobSet, Trainer); the caller's own."""
    folder = files("kubarium.api") / "data" / "crds"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".json")]
    documents: list[Document] = []
    for entry in sorted(found, key=lambda item: item.name):
        documents += orjson.loads(entry.read_bytes())
    return documents


def optional(name: str) -> list[Document]:
    """Definitions that a cluster serves only if it asks for them, such as ``nvidia``."""
    folder = files("kubarium.api") / "data" / "crds" / "optional"
    found: list[Document] = orjson.loads((folder / f"{name}.json").read_bytes())
    return found


_SIMPLE_PATH = re.compile(r"\.[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


def is_simple_path(path: Any) -> bool:
    """Whether a JSONPath only names fields (``.spec.replicas``), as scale and selectors need."""
    return isinstance(path, str) and _SIMPLE_PATH.fullmatch(path) is not None
