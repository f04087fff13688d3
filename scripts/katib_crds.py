"""Writes the definitions of Katib's kinds as Kubarium serves them: src/kubarium/api/data/crds.

python scripts/katib_crds.py

Katib publishes them without schemas and checks them in a webhook; here fields that are read have
types, and all others are kept as they are.
"""

from __future__ import annotations

import json
from pathlib import Path

from own_crds import NUMBER, TEXT, WHOLE, definition, whole

OUTPUT = Path(__file__).parent.parent / "src/kubarium/api/data/crds/katib.json"

ANY = {"x-kubernetes-preserve-unknown-fields": True}
OPEN = {"type": "object"} | ANY


def record(**properties: object) -> dict[str, object]:
    return OPEN | {"properties": properties}


def array(items: object) -> dict[str, object]:
    return {"type": "array", "items": items}


OBJECTIVE = record(
    type=TEXT | {"enum": ["minimize", "maximize"]},
    goal=NUMBER,
    objectiveMetricName=TEXT,
    additionalMetricNames=array(TEXT),
    metricStrategies=array(record(name=TEXT, value=TEXT | {"enum": ["min", "max", "latest"]})),
)
ASSIGNMENTS = array(record(name=TEXT, value=TEXT))
OBSERVATION = record(metrics=array(record(name=TEXT, latest=TEXT, min=TEXT, max=TEXT)))
CONDITIONS = array(
    record(
        type=TEXT,
        status=TEXT,
        reason=TEXT,
        message=TEXT,
        lastUpdateTime=TEXT,
        lastTransitionTime=TEXT,
    )
)
EXPERIMENT = record(
    parallelTrialCount={"type": "integer", "minimum": 1},
    maxTrialCount={"type": "integer", "minimum": 1},
    maxFailedTrialCount=WHOLE,
    objective=OBJECTIVE,
    algorithm=record(algorithmName=TEXT, algorithmSettings=array(record(name=TEXT, value=TEXT))),
    parameters=array(
        record(
            name=TEXT,
            parameterType=TEXT | {"enum": ["double", "int", "discrete", "categorical"]},
            feasibleSpace=record(
                min=TEXT, max=TEXT, step=TEXT, distribution=TEXT, list=array(TEXT)
            ),
        )
    ),
    trialTemplate=record(
        retain={"type": "boolean"},
        primaryContainerName=TEXT,
        successCondition=TEXT,
        failureCondition=TEXT,
        trialParameters=array(record(name=TEXT, reference=TEXT, description=TEXT)),
        trialSpec=OPEN,
    ),
    metricsCollectorSpec=OPEN,
) | {
    "x-kubernetes-validations": [
        {
            "rule": "has(self.objective) && has(self.objective.type) "
            "&& has(self.objective.objectiveMetricName)",
            "message": "spec.objective.type and spec.objective.objectiveMetricName must be "
            "specified",
        },
        {
            "rule": "has(self.algorithm) && has(self.algorithm.algorithmName)",
            "message": "spec.algorithm.algorithmName must be specified",
        },
        {
            "rule": "has(self.trialTemplate)",
            "message": "spec.trialTemplate must be specified",
        },
        {
            "rule": "!has(self.maxTrialCount) || !has(self.maxFailedTrialCount) "
            "|| self.maxFailedTrialCount <= self.maxTrialCount",
            "message": "spec.maxFailedTrialCount should be less than or equal to "
            "spec.maxTrialCount",
        },
        {
            "rule": "!has(self.maxTrialCount) || !has(self.parallelTrialCount) "
            "|| self.parallelTrialCount <= self.maxTrialCount",
            "message": "spec.parallelTrialCount should be less than or equal to spec.maxTrialCount",
        },
    ]
}
EXPERIMENT_STATUS = record(
    conditions=CONDITIONS,
    startTime=TEXT,
    completionTime=TEXT,
    currentOptimalTrial=record(
        bestTrialName=TEXT, parameterAssignments=ASSIGNMENTS, observation=OBSERVATION
    ),
)
TRIAL = record(
    objective=OBJECTIVE,
    parameterAssignments=ASSIGNMENTS,
    primaryContainerName=TEXT,
    retainRun={"type": "boolean"},
    runSpec=OPEN,
)
TRIAL_STATUS = record(
    conditions=CONDITIONS, startTime=TEXT, completionTime=TEXT, observation=OBSERVATION
)
COLUMNS = [
    ("Type", "string", ".status.conditions[-1:].type"),
    ("Status", "string", ".status.conditions[-1:].status"),
    ("Age", "date", ".metadata.creationTimestamp"),
]


NAMES = {"categories": ["all", "kubeflow", "katib"]}


def katib(kind: str, spec: object, status: object) -> dict[str, object]:
    schema = whole(spec, status) | {"required": ["spec"]}
    return definition(kind, NAMES, schema, COLUMNS, "kubeflow.org", "v1beta1")


if __name__ == "__main__":
    found = [
        katib("Experiment", EXPERIMENT, EXPERIMENT_STATUS),
        katib("Trial", TRIAL, TRIAL_STATUS),
    ]
    OUTPUT.write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")
    print(OUTPUT.name)
