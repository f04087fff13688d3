"""Writes the definitions of our own kinds (RankHistory, Fault): src/kubarium/api/data/crds.

python scripts/own_crds.py
"""

from __future__ import annotations

import json
from pathlib import Path

OUTPUT = Path(__file__).parent.parent / "src/kubarium/api/data/crds/kubarium-training.json"

NUMBER, TEXT, WHOLE = {"type": "number"}, {"type": "string"}, {"type": "integer", "minimum": 0}


def record(**properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties}


SPAN = record(
    what=TEXT,
    began=NUMBER,
    ended=NUMBER,
    step=WHOLE,
    count=WHOLE,
    waited=NUMBER,
    first={"type": "boolean"},
) | {"required": ["what", "began", "ended"]}

SCHEMA = record(
    apiVersion=TEXT,
    kind=TEXT,
    metadata={"type": "object"},
    spec=record(rank=WHOLE, podName=TEXT, podUID=TEXT, nodeName=TEXT, jobName=TEXT, jobSetName=TEXT)
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
    kind: str, short: list[str], schema: dict[str, object], columns: list[tuple[str, str, str]]
) -> dict[str, object]:
    """A CustomResourceDefinition of group kubarium.dev with a status."""
    singular = kind.lower()
    plural = f"{singular[:-1]}ies" if singular.endswith("y") else f"{singular}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.kubarium.dev"},
        "spec": {
            "group": "kubarium.dev",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": singular,
                "shortNames": short,
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": "v1alpha1",
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


RANK_HISTORY = definition("RankHistory", ["ranks"], SCHEMA, COLUMNS)

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
    ["chaos"],
    record(
        apiVersion=TEXT,
        kind=TEXT,
        metadata={"type": "object"},
        spec=FAULT_SPEC,
        status=FAULT_STATUS,
    )
    | {"required": ["spec"]},
    [
        ("Action", "string", ".spec.action"),
        ("Injected", "integer", ".status.injected"),
        ("Phase", "string", ".status.phase"),
        ("Message", "string", ".status.message"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ],
)

if __name__ == "__main__":
    OUTPUT.write_text(
        json.dumps([FAULT, RANK_HISTORY], separators=(",", ":")) + "\n", encoding="utf-8"
    )
    print(OUTPUT.name)
