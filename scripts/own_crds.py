"""Writes the definitions of kinds that no upstream file has: src/kubarium/api/data/crds.

python scripts/own_crds.py
"""

from __future__ import annotations

import json
from pathlib import Path

OUTPUT = Path(__file__).parent.parent / "src/kubarium/api/data/crds/kubarium-training.json"

NUMBER, TEXT, WHOLE = {"type": "number"}, {"type": "string"}, {"type": "integer", "minimum": 0}


def record(**properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties}


def whole(spec: object, status: object) -> dict[str, object]:
    """The schema of an object."""
    metadata = {"type": "object"}
    return record(apiVersion=TEXT, kind=TEXT, metadata=metadata, spec=spec, status=status)


SPAN = record(
    what=TEXT,
    began=NUMBER,
    ended=NUMBER,
    step=WHOLE,
    count=WHOLE,
    waited=NUMBER,
    first={"type": "boolean"},
) | {"required": ["what", "began", "ended"]}

SCHEMA = whole(
    spec=record(
        rank={"type": "integer", "minimum": -1},
        podName=TEXT,
        podUID=TEXT,
        nodeName=TEXT,
        jobName=TEXT,
        jobSetName=TEXT,
    )
    | {"required": ["rank", "podName"]},
    status=record(
        step=WHOLE,
        savedStep={"type": "integer", "minimum": -1},
        resumedFrom=WHOLE,
        worldSize=WHOLE,
        createdAt=NUMBER,
        scheduledAt=NUMBER,
        startedAt=NUMBER,
        endedAt=NUMBER,
        outcome=TEXT,
        spans={"type": "array", "maxItems": 1024, "items": SPAN},
    ),
)

COLUMNS = [
    ("Rank", "integer", ".spec.rank"),
    ("Step", "integer", ".status.step"),
    ("Saved", "integer", ".status.savedStep"),
    ("Outcome", "string", ".status.outcome"),
    ("Age", "date", ".metadata.creationTimestamp"),
]


def definition(
    kind: str,
    names: dict[str, list[str]],
    schema: dict[str, object],
    columns: list[tuple[str, str, str]],
    group: str = "kubarium.dev",
    version: str = "v1alpha1",
) -> dict[str, object]:
    """A CustomResourceDefinition with a status; ``names``: short ones, and categories."""
    singular = kind.lower()
    plural = f"{singular[:-1]}ies" if singular.endswith("y") else f"{singular}s"
    approval: dict[str, object] = {}
    if group.endswith(".k8s.io"):
        approval["annotations"] = {"api-approved.kubernetes.io": "unapproved, built in upstream"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"} | approval,
        "spec": {
            "group": group,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": singular,
            }
            | names,
            "scope": "Namespaced",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": type_, "jsonPath": path}
                        for name, type_, path in columns
                    ],
                }
            ],
            "conversion": {"strategy": "None"},
        },
    }


RANK_HISTORY = definition("RankHistory", {"shortNames": ["ranks"]}, SCHEMA, COLUMNS)

SELECTOR = record(
    matchLabels={"type": "object", "additionalProperties": TEXT},
    matchExpressions={
        "type": "array",
        "items": record(key=TEXT, operator=TEXT, values={"type": "array", "items": TEXT}),
    },
)

FAULT_SPEC = record(
    action={
        "type": "string",
        "enum": [
            "Kill",
            "Stop",
            "Slow",
            "OutOfMemory",
            "CorruptFile",
            "Partition",
            "Loss",
            "Delay",
            "LoseNode",
            "DisconnectNode",
            "PartitionNode",
            "DeviceUnhealthy",
        ],
    },
    selector=SELECTOR,
    peers=SELECTOR,
    mode={"type": "string", "enum": ["One", "All"]},
    rank=WHOLE,
    container=TEXT,
    durationSeconds={"type": "number", "minimum": 0},
    amount={"type": "number", "minimum": 0},
    path=TEXT,
    device=TEXT,
    schedule=record(
        afterSeconds={"type": "number", "minimum": 0},
        everySeconds={"type": "number", "minimum": 0},
        meanSecondsBetween={"type": "number", "minimum": 0},
        times={"type": "integer", "minimum": 1},
        seed={"type": "integer"},
    ),
) | {"required": ["action"]}

FAULT_STATUS = record(
    phase=TEXT,
    message=TEXT,
    injected=WHOLE,
    inForce=WHOLE,
    nextAt=TEXT,
    history={"type": "array", "maxItems": 64, "items": record(number=WHOLE, at=TEXT, target=TEXT)},
)

FAULT = definition(
    "Fault",
    {"shortNames": ["chaos"]},
    whole(FAULT_SPEC, FAULT_STATUS) | {"required": ["spec"]},
    [
        ("Action", "string", ".spec.action"),
        ("Injected", "integer", ".status.injected"),
        ("Phase", "string", ".status.phase"),
        ("Message", "string", ".status.message"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ],
)

CONDITIONS = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
    "items": record(
        type=TEXT,
        status={"type": "string", "enum": ["True", "False", "Unknown"]},
        reason=TEXT,
        message=TEXT,
        observedGeneration=WHOLE,
        lastTransitionTime={"type": "string", "format": "date-time"},
    )
    | {"required": ["type", "status", "reason", "lastTransitionTime"]},
}
IMMUTABLE = {
    "x-kubernetes-validations": [
        {"rule": "self == oldSelf", "message": "spec is immutable; make another checkpoint"}
    ]
}
TIMEOUT = {"type": "integer", "minimum": 1, "maximum": 3600}
NAME = {"type": "string", "minLength": 1}
PARTS = {"bytes": WHOLE, "sha256": TEXT}
READY = ".status.conditions[?(@.type=='Ready')]"

# As KEP-5823 has it, and beside it what a checkpoint of a rank is: a step, and a digest.
POD_CHECKPOINT = definition(
    "PodCheckpoint",
    {"shortNames": []},
    whole(
        spec=record(
            sourcePod=record(name=NAME, uid=TEXT) | {"required": ["name"]},
            timeoutSeconds=TIMEOUT,
        )
        | {"required": ["sourcePod"]}
        | IMMUTABLE,
        status=record(
            nodeName=TEXT,
            sourcePodUID=TEXT,
            checkpointLocation=record(
                type={"type": "string", "enum": ["NodeLocal", "Volume"]},
                nodeLocal=record(path=TEXT) | {"required": ["path"]},
                volume=record(container=TEXT, path=TEXT) | {"required": ["path"]},
            )
            | {"required": ["type"]},
            completionTime={"type": "string", "format": "date-time"},
            checkpointedPodTemplate={
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
            },
            checkpointedContainers={
                "type": "array",
                "items": record(name=TEXT, image=TEXT) | {"required": ["name"]},
            },
            step=WHOLE,
            conditions=CONDITIONS,
            **PARTS,
        ),
    )
    | {"required": ["spec"]},
    [
        ("Pod", "string", ".spec.sourcePod.name"),
        ("Ready", "string", f"{READY}.status"),
        ("Reason", "string", f"{READY}.reason"),
        ("Step", "integer", ".status.step"),
        ("Node", "string", ".status.nodeName"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ],
    "checkpoint.k8s.io",
)

GANG_CHECKPOINT = definition(
    "GangCheckpoint",
    {"shortNames": ["gckpt"]},
    whole(
        spec=record(
            target=record(kind={"type": "string", "enum": ["JobSet", "Job"]}, name=NAME)
            | {"required": ["kind", "name"]},
            timeoutSeconds=TIMEOUT,
            ttlSecondsAfterFinished=WHOLE,
        )
        | {"required": ["target"]}
        | IMMUTABLE,
        status=record(
            step=WHOLE,
            ranks=WHOLE,
            path=TEXT,
            podCheckpoints={"type": "array", "items": TEXT},
            completionTime={"type": "string", "format": "date-time"},
            conditions=CONDITIONS,
            **PARTS,
        ),
    )
    | {"required": ["spec"]},
    [
        ("Target", "string", ".spec.target.name"),
        ("Ready", "string", f"{READY}.status"),
        ("Reason", "string", f"{READY}.reason"),
        ("Step", "integer", ".status.step"),
        ("Ranks", "integer", ".status.ranks"),
        ("Path", "string", ".status.path"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ],
)

if __name__ == "__main__":
    OUTPUT.write_text(
        json.dumps([FAULT, RANK_HISTORY, POD_CHECKPOINT, GANG_CHECKPOINT], separators=(",", ":"))
        + "\n",
        encoding="utf-8",
    )
    print(OUTPUT.name)
