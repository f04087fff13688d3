"""Distil published CustomResourceDefinitions into the compact ones that Kubarium bundles.

Usage: python scripts/distil_crds.py [FOLDER_OF_CRDS]

FOLDER_OF_CRDS holds one folder for each project (kueue/, jobset/, trainer/, scheduler-plugins/,
nvidia/ for the DRA driver's) with its CRD manifests; one that is absent is left as it is. The
default is $KUBARIUM_SHARED/crds. Descriptions go, the pod and job specs that controller-gen copies
in whole become references to the built-in definitions, and only storage versions stay (Kueue's
v1beta1 needs its conversion webhook). Rules, defaults, limits and printer columns are kept.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "src/kubarium/api/data/crds"
# Project folder -> the manifests taken from it.
PROJECTS = {
    "kueue": "*.yaml",
    "jobset": "*.yaml",
    "scheduler-plugins": "*_podgroups.yaml",
    "trainer": "*.yaml",
    "kserve": "*_localmodel*.yaml",
    "nvidia": "resource.nvidia.com_*.yaml",
}
# Served only where a cluster asks for them.
OPTIONAL = frozenset(("nvidia",))
NOISE = frozenset(("description", "title", "example", "externalDocs"))
REFERENCE = "#/definitions/io.k8s.api."
# A schema whose properties include these names is a copy of the built-in definition.
COPIES = (
    (frozenset(("containers", "initContainers", "restartPolicy", "dnsPolicy")), "core.v1.PodSpec"),
    (frozenset(("backoffLimit", "completionMode", "template", "suspend")), "batch.v1.JobSpec"),
    (frozenset(("nodeAffinity", "podAffinity", "podAntiAffinity")), "core.v1.Affinity"),
    (frozenset(("emptyDir", "configMap", "projected", "hostPath")), "core.v1.Volume"),
    (frozenset(("name", "value", "valueFrom")), "core.v1.EnvVar"),
)


def compact(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without prose, with copies of built-in definitions as references."""
    for names, definition in COPIES:
        if names <= schema.get("properties", {}).keys():
            kept = {"$ref": REFERENCE + definition}
            rules = schema.get("x-kubernetes-validations")
            return kept | ({"x-kubernetes-validations": rules} if rules else {})
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in NOISE:
            continue
        if key == "properties":
            result[key] = {name: compact(child) for name, child in value.items()}
        elif key in ("items", "additionalProperties", "not") and isinstance(value, dict):
            result[key] = compact(value)
        elif key in ("allOf", "anyOf", "oneOf"):
            result[key] = [compact(child) for child in value]
        else:
            result[key] = value
    return result


def distil(document: dict[str, Any]) -> dict[str, Any]:
    """One definition with its storage version only."""
    spec = document["spec"]
    versions = []
    for version in spec["versions"]:
        if not version["storage"]:
            continue
        columns = version.get("additionalPrinterColumns", ())
        kept = dict(version)
        kept["schema"] = {"openAPIV3Schema": compact(version["schema"]["openAPIV3Schema"])}
        if columns:
            kept["additionalPrinterColumns"] = [
                {key: value for key, value in column.items() if key != "description"}
                for column in columns
            ]
        versions.append(kept)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": document["metadata"]["name"]},
        "spec": {
            "group": spec["group"],
            "names": spec["names"],
            "scope": spec["scope"],
            "versions": versions,
            "conversion": {"strategy": "None"},
        },
    }


def default_folder() -> Path:
    shared = os.environ.get("KUBARIUM_SHARED")
    return Path(shared) / "crds" if shared else HERE.parent.parent / "shared/crds"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default_folder()
    if not folder.is_dir():
        raise SystemExit(
            f"{folder}: no such folder; give the folder of CRDs or set KUBARIUM_SHARED"
        )
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for project, pattern in PROJECTS.items():
        manifests = sorted((folder / project).glob(pattern))
        if not manifests:
            print(f"{project}: no manifests in {folder / project}; left as it is")
            continue
        documents = [yaml.load(path.read_bytes(), yaml.CSafeLoader) for path in manifests]
        text = json.dumps([distil(d) for d in documents], separators=(",", ":"))
        place = OUTPUT / "optional" if project in OPTIONAL else OUTPUT
        (place / f"{project}.json").write_text(text + "\n", encoding="utf-8")
        print(f"{project}.json: {len(documents)} definitions, {len(text) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
