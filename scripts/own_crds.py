"""Writes the definitions of our own kinds for training: src/kubarium/api/data/crds.

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

RANK_HISTORY = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "rankhistories.kubarium.dev"},
    "spec": {
        "group": "kubarium.dev",
        "names": {
            "kind": "RankHistory",
            "listKind": "RankHistoryList",
            "plural": "rankhistories",
            "singular": "rankhistory",
            "shortNames": ["ranks"],
        },
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": SCHEMA},
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": name, "type": kind, "jsonPath": path} for name, kind, path in COLUMNS
                ],
            }
        ],
        "conversion": {"strategy": "None"},
    },
}

if __name__ == "__main__":
    OUTPUT.write_text(json.dumps([RANK_HISTORY], separators=(",", ":")) + "\n", encoding="utf-8")
    print(OUTPUT.name)
