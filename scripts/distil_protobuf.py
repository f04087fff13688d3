"""Distil the protobuf field numbers of Kubernetes' Go types into one compact file.

Usage: python scripts/distil_protobuf.py API APIMACHINERY [OUTPUT]

API and APIMACHINERY are git directories of kubernetes/api and kubernetes/apimachinery at the
wanted release. Clients that are compiled against the typed clientset (kubectl create, kubectl auth
can-i, most controllers) send request bodies as protobuf; the JSON schemas do not say the field
numbers, and generated.proto does not say which scalars are pointers, so the struct tags of types.go
are read.

Output: ``kinds`` maps "group/version Kind" to an index of ``messages``; a message is a list of
fields ``[number, JSON name, code, reference, repeated, keep zero]``. Codes: ``s`` string, ``y``
bytes, ``i`` integer, ``b`` bool, ``d`` double, ``m`` message, ``n`` message inlined into its
parent, ``S`` map of string to string and ``Y`` to bytes, ``M`` + code any other map, and one
capital for each type with a JSON form of its own (Q Quantity, T Time, U MicroTime, D Duration,
I IntOrString, R RawExtension, F FieldsV1, L a list of strings in a message).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "src/kubarium/server/data/protobuf-1.37.json"
KINDS = HERE.parent / "src/kubarium/api/data/kubernetes-1.37.json"
META = "meta/v1"
# Packages that are gone from kubernetes/api but served here, and the tag that still has them.
RETIRED = {"scheduling/v1alpha2": "v0.36.3"}
SPECIAL = {
    "resource.Quantity": "Q",
    f"{META}.Time": "T",
    f"{META}.MicroTime": "U",
    f"{META}.Duration": "D",
    "intstr.IntOrString": "I",
    "runtime.RawExtension": "R",
    f"{META}.FieldsV1": "F",
}
SCALARS = {
    "string": "s", "bool": "b", "int": "i", "int32": "i", "int64": "i", "uint32": "i",
    "uint64": "i", "uint8": "i", "float64": "d", "byte": "i", "types.UID": "s",
    "types.NodeName": "s",
}  # fmt: skip
# Kinds that are sent without being resources.
EXTRA_KINDS = {
    "meta.k8s.io/v1 DeleteOptions": f"{META}.DeleteOptions",
    "autoscaling/v1 Scale": "autoscaling/v1.Scale",
    "policy/v1 Eviction": "policy/v1.Eviction",
    "authentication.k8s.io/v1 TokenRequest": "authentication/v1.TokenRequest",
}
STRUCT = re.compile(r"^type (\w+) struct \{$(.*?)^\}", re.MULTILINE | re.DOTALL)
EMPTY = re.compile(r"^type (\w+) struct ?\{\s*\}", re.MULTILINE)
ALIAS = re.compile(r"^type (\w+) (?:= )?((?:\[\]|map\[\w+\])?[\w.]+)(?:\s|$)", re.MULTILINE)
IMPORT = re.compile(r'^(?:import )?\s*(\w+)? ?"(k8s\.io/[^"]+)"', re.MULTILINE)
FIELD = re.compile(r"^\s*(?:(\w+)\s+)?([\w.*\[\]]+)\s+`([^`]*)`", re.MULTILINE)
PROTOBUF = re.compile(r'protobuf:"(\w+),(\d+),(\w+)')
JSON_TAG = re.compile(r'json:"([^"]*)"')


def read(repository: str, path: str, revision: str = "HEAD") -> str:
    command = ["git", "-C", repository, "show", f"{revision}:{path}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def files(repository: str, pattern: str) -> list[str]:
    command = ["git", "-C", repository, "ls-tree", "-r", "--name-only", "HEAD"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [path for path in listed.splitlines() if re.fullmatch(pattern, path)]


def short(path: str) -> str:
    """An import path as this script calls the package."""
    if path.startswith("k8s.io/api/"):
        return path.removeprefix("k8s.io/api/")
    return META if path.endswith("/meta/v1") else path.rpartition("/")[2]


class Types:
    """All structs and named types, by "<group>/<version>.<Name>"."""

    def __init__(self) -> None:
        self.structs: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        self.imports: dict[str, dict[str, str]] = {}

    def add(self, package: str, source: str) -> None:
        known = self.imports.setdefault(package, {})
        for given, path in IMPORT.findall(source):
            known[given or path.rpartition("/")[2]] = short(path)
        for name, body in STRUCT.findall(source):
            self.structs[f"{package}.{name}"] = body
        for name in EMPTY.findall(source):
            self.structs[f"{package}.{name}"] = ""
        for name, target in ALIAS.findall(source):
            if target not in ("struct", "interface"):
                self.aliases[f"{package}.{name}"] = target

    def resolve(self, package: str, name: str) -> str:
        """A Go type's full name."""
        head, dot, tail = name.partition(".")
        if not dot:
            return name if name in SCALARS else f"{package}.{name}"
        return f"{self.imports[package].get(head, head)}.{tail}"


class Messages:
    def __init__(self, types: Types) -> None:
        self.types = types
        self.index: dict[str, int] = {}
        self.fields: list[list[list[object]]] = []

    def number(self, name: str) -> int:
        if name in self.index:
            return self.index[name]
        self.index[name] = len(self.fields)
        self.fields.append([])
        package = name.rpartition(".")[0]
        fields = self.fields[self.index[name]]
        for given, type_, tags in FIELD.findall(self.types.structs[name]):
            field = self.field(package, given, type_, tags)
            if field:
                fields.append(field)
        return self.index[name]

    def field(self, package: str, given: str, type_: str, tags: str) -> list[object] | None:
        found = PROTOBUF.search(tags)
        if not found:
            return None
        json_tag = JSON_TAG.search(tags)
        name, _, options = (json_tag.group(1) if json_tag else "").partition(",")
        pointer = type_.startswith("*")
        code, reference, repeated = self.code(package, type_.lstrip("*"))
        if not given and not name and code == "m":
            code = "n"
        keep = pointer or "omitempty" not in options
        row: list[object] = [int(found.group(2)), name, code, reference, int(repeated), int(keep)]
        return row

    def code(self, package: str, type_: str) -> tuple[str, int, bool]:
        """(code, message index, repeated) of a Go type without its pointer."""
        if type_ == "[]byte":
            return "y", 0, False
        if type_.startswith("[]"):
            code, reference, repeated = self.code(package, type_[2:].lstrip("*"))
            assert not repeated, type_
            return code, reference, True
        if type_.startswith("map["):
            value = type_.partition("]")[2]
            code, reference, repeated = self.code(package, value)
            if repeated:
                raise SystemExit(f"map of lists: {package} {type_}")
            kinds = {"s": "S", "y": "Y"}
            return kinds.get(code, f"M{code}"), reference, False
        full = self.types.resolve(package, type_)
        if full in SPECIAL:
            return SPECIAL[full], 0, False
        if full in SCALARS:
            return SCALARS[full], 0, False
        if full in self.types.structs:
            return "m", self.number(full), False
        target = self.types.aliases.get(full)
        if target is None:
            raise SystemExit(f"unknown type {type_} in {package} ({full})")
        owner = full.rpartition(".")[0]
        if target.startswith("[]") and target != "[]byte":
            return "L", 0, False  # a named list is a message with "items"
        return self.code(owner, target)


def package_of(group: str, version: str) -> str:
    head = group.split(".")[0] or "core"
    return f"{'apiserverinternal' if group == 'internal.apiserver.k8s.io' else head}/{version}"


def main(api: str, apimachinery: str, output: str = "") -> None:
    types = Types()
    for path in files(api, r"\w+/v\w+/types\.go"):
        types.add(path.rpartition("/")[0], read(api, path))
    for package, tag in RETIRED.items():
        types.add(package, read(api, f"{package}/types.go", tag))
    for path in files(apimachinery, r"pkg/apis/meta/v1/[a-z_]+\.go"):
        types.add(META, read(apimachinery, path))
    messages = Messages(types)
    kinds: dict[str, int] = {}
    for kind in json.loads(KINDS.read_text())["kinds"]:
        group, version = kind.get("group", ""), kind["version"]
        name = f"{package_of(group, version)}.{kind['kind']}"
        if name in types.structs:
            api_version = f"{group}/{version}" if group else version
            kinds[f"{api_version} {kind['kind']}"] = messages.number(name)
    for label, name in EXTRA_KINDS.items():
        kinds[label] = messages.number(name)
    body = json.dumps({"kinds": kinds, "messages": messages.fields}, separators=(",", ":"))
    Path(output or OUTPUT).write_text(body + "\n", encoding="utf-8")
    print(f"{len(kinds)} kinds, {len(messages.fields)} messages, {len(body)} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
