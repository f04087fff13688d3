"""Distil the Kubernetes JSON schemas of the kubernetes-validate package into one compact file.

Usage: python scripts/distil_schema.py [OUTPUT]

The output keeps what the API server needs and nothing that people read: fields, types, formats,
required, enums, list and map types, merge keys and patch strategies. Every distinct type is one
entry of ``types`` and is referred to by its index, so that the file is small and a reader can
resolve lazily. What the schemas do not say comes from two tables beside this script: which kinds
are served where (kinds-1.37.txt) and which strings are closed sets (enums-1.37.txt).

Keys of a type entry: ``t`` type (s string, i integer, n number, b boolean, o object, a array; none
means any), ``f`` fields, ``r`` required, ``i`` items, ``v`` map values, ``n`` definition name,
``e`` enum, ``m`` format, ``l`` list type, ``k`` list map keys, ``M`` map type, ``p`` patch
strategies, ``K`` patch merge key, ``x`` int-or-string, ``u`` free-form object, ``R`` the same type
with other annotations (index).
"""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

VERSION = "1.37"
# Versions that a release was the last to have: their definitions come from that release.
RETIRED = {"1.36": "io.k8s.api.scheduling.v1alpha2."}
HERE = Path(__file__).parent
OUTPUT = HERE.parent / f"src/kubarium/api/data/kubernetes-{VERSION}.json"
PREFIX = "#/$defs/"
TYPE_CODES = {
    "string": "s",
    "integer": "i",
    "number": "n",
    "boolean": "b",
    "object": "o",
    "array": "a",
}
# Versions of one shape share their closed sets.
TWINS = (
    ("resource.v1.", "resource.v1beta2."),
    ("resource.v1.", "resource.v1beta1."),
    ("resource.v1.ExactDeviceRequest", "resource.v1beta1.DeviceRequest"),
    ("scheduling.v1beta1.", "scheduling.v1alpha3."),
    ("admissionregistration.v1.", "admissionregistration.v1beta1."),
)
META = "io.k8s.apimachinery.pkg.apis.meta.v1"
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
FREE_FORM = {"io.k8s.apimachinery.pkg.runtime.RawExtension", f"{META}.FieldsV1"}
# Recursive JSONSchemaProps unions, Patch and JSON have no type: any value is taken as it comes.


def load_definitions() -> dict[str, Any]:
    definitions = definitions_of(VERSION)
    for release, prefix in RETIRED.items():
        older = definitions_of(release).items()
        definitions |= {name: node for name, node in older if name.startswith(prefix)}
    return definitions


def definitions_of(release: str) -> dict[str, Any]:
    root = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{release}.0-local"
    text = (root / "_definitions.json").read_text(encoding="utf-8")
    definitions: dict[str, Any] = json.loads(text)["$defs"]
    return definitions


def load_rows(name: str) -> list[list[str]]:
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if line.strip() and not line.startswith("#")]


class Distiller:
    """Interns type entries; definitions get their index before their fields are visited."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self.source = definitions
        self.types: list[dict[str, Any]] = []
        self.index_by_text: dict[str, int] = {}
        self.index_by_name: dict[str, int] = {}
        self.enums = self._enums()

    def _enums(self) -> dict[str, list[str]]:
        table: dict[str, list[str]] = {}
        for path, *values in load_rows(f"enums-{VERSION}.txt"):
            prefix = "io.k8s." if path.startswith("apimachinery.") else "io.k8s.api."
            if path.startswith("apiextensions."):
                path = path.removeprefix("apiextensions.")
                prefix = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions."
            definition, _, field = path.rpartition(".")
            if field not in self.source[prefix + definition]["properties"]:
                raise SystemExit(f"enums-{VERSION}.txt: no field {path}")
            choices = ["" if value == "empty" else value for value in values]
            for twin in (definition, *(definition.replace(v, t) for v, t in TWINS)):
                if field in self.source.get(prefix + twin, {}).get("properties", {}):
                    table[f"{prefix}{twin}.{field}"] = choices
        return table

    def intern(self, entry: dict[str, Any]) -> int:
        text = json.dumps(entry, sort_keys=True)
        if text not in self.index_by_text:
            self.index_by_text[text] = len(self.types)
            self.types.append(entry)
        return self.index_by_text[text]

    def definition(self, name: str) -> int:
        if name in self.index_by_name:
            return self.index_by_name[name]
        index = len(self.types)
        self.types.append({})
        self.index_by_name[name] = index
        self.types[index].update(self._definition_entry(name))
        return index

    def _definition_entry(self, name: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"n": name.removeprefix("io.k8s.")}
        if name == QUANTITY:
            return entry | {"t": "s", "m": "quantity"}
        if name == INT_OR_STRING:
            return entry | {"x": 1}
        if name in FREE_FORM:
            return entry | {"t": "o", "u": 1}
        if name == f"{META}.MicroTime":
            return entry | {"t": "s", "m": "date-time"}
        return entry | self._plain(self.source[name], name)

    def _plain(self, node: dict[str, Any], name: str = "") -> dict[str, Any]:
        entry: dict[str, Any] = {}
        kind = node.get("type")
        if isinstance(kind, list):
            kind = next(item for item in kind if item != "null")
        if kind:
            entry["t"] = TYPE_CODES[kind]
        if "properties" in node:
            fields = node["properties"].items()
            entry["f"] = {field: self._field(name, field, value) for field, value in fields}
        required = [f for f in node.get("required", ()) if f not in ("apiVersion", "kind")]
        if required:
            entry["r"] = required
        if "items" in node:
            entry["i"] = self.type_of(node["items"])
        if isinstance(node.get("additionalProperties"), dict):
            entry["v"] = self.type_of(node["additionalProperties"])
        if "format" in node:
            entry["m"] = node["format"]
        return entry | annotations(node)

    def _field(self, definition: str, field: str, node: dict[str, Any]) -> int:
        if field in ("apiVersion", "kind") and "enum" in node:
            return self.intern({"t": "s"})
        enum = self.enums.get(f"{definition}.{field}")
        if enum:
            return self.intern(self._plain(node) | {"e": enum})
        return self.type_of(node)

    def type_of(self, node: dict[str, Any]) -> int:
        if "$ref" not in node:
            return self.intern(self._plain(node))
        index = self.definition(node["$ref"].removeprefix(PREFIX))
        extra = annotations(node)
        return self.intern({"R": index} | extra) if extra else index


def annotations(node: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for key, short in (
        ("x-kubernetes-list-type", "l"),
        ("x-kubernetes-list-map-keys", "k"),
        ("x-kubernetes-map-type", "M"),
        ("x-kubernetes-patch-merge-key", "K"),
    ):
        if key in node:
            entry[short] = node[key]
    if "x-kubernetes-patch-strategy" in node:
        entry["p"] = node["x-kubernetes-patch-strategy"].split(",")
    return entry


def listed(text: str) -> list[str]:
    return [] if text == "-" else text.split(",")


def definition_of(definitions: dict[str, Any], group: str, version: str, kind: str) -> str:
    wanted = {"group": group, "version": version, "kind": kind}
    for name, node in definitions.items():
        if wanted in node.get("x-kubernetes-group-version-kind", ()):
            return name
    raise SystemExit(f"no definition for {wanted}")


def served_kinds(definitions: dict[str, Any]) -> list[dict[str, Any]]:
    kinds: list[dict[str, Any]] = []
    group = version = storage = ""
    for row in load_rows(f"kinds-{VERSION}.txt"):
        if row[0].startswith("["):
            group, _, version = row[0].strip("[]").partition("/")
            group = "" if group == "core" else group
            storage = row[2].rstrip("]") if len(row) > 1 else version
            continue
        if storage != version:
            twin = next(
                k
                for k in kinds
                if (k["group"], k["plural"], k["version"]) == (group, row[0], storage)
            )
            # A version that Kubernetes has retired is served in the shape of its successor.
            known = any(f".{version}.{twin['kind']}" in name for name in definitions)
            name = definition_of(definitions, group, version if known else storage, twin["kind"])
            kinds.append(twin | {"version": version, "storage": storage, "definition": name})
            continue
        plural, kind, scope, short, categories, subresources, selectable = row
        entry = {"group": group, "version": version, "plural": plural, "kind": kind}
        entry |= {"definition": definition_of(definitions, group, version, kind)}
        entry |= {"namespaced": scope[0] == "N", "create_only": scope.endswith("+")}
        entry |= {"short_names": listed(short), "categories": listed(categories)}
        entry |= {"subresources": listed(subresources), "selectable": listed(selectable)}
        kinds.append(entry)
    return kinds


EXTRA_KINDS = (  # bodies of subresources and options, known by name but not served themselves
    ("autoscaling", "v1", "Scale"),
    ("policy", "v1", "Eviction"),
    ("authentication.k8s.io", "v1", "TokenRequest"),
    ("", "v1", "DeleteOptions"),
    ("", "v1", "Status"),
)


def distil() -> dict[str, Any]:
    definitions = load_definitions()
    distiller = Distiller(definitions)
    kinds = served_kinds(definitions)
    for kind in kinds:
        name = kind["definition"]
        kind["definition"] = distiller.definition(name)
    for group, version, kind_name in EXTRA_KINDS:
        distiller.definition(definition_of(definitions, group, version, kind_name))
    for name in definitions:
        if not name.endswith("List"):
            distiller.definition(name)
    names = {name.removeprefix("io.k8s."): i for name, i in distiller.index_by_name.items()}
    rows = [{k: v for k, v in kind.items() if v is not False and v != []} for kind in kinds]
    return {"version": VERSION, "kinds": rows, "names": names, "types": distiller.types}


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT
    text = json.dumps(distil(), separators=(",", ":"), sort_keys=False)
    output.write_text(text + "\n", encoding="utf-8")
    print(f"{output}: {len(text) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
