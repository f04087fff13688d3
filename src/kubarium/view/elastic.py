"""Gangs that lose a rank and go on: how a job asks, what controllers and nodes say. Pure.

A job says it by annotations on its pod template; any of the first three makes its ranks a gang that
restarts in place:

    kubarium.dev/spares: "1"          pods that wait, started and warm, to take a lost rank
    kubarium.dev/min-ranks: "4"       with fewer ranks the gang waits; with as many it goes on
    kubarium.dev/max-ranks: "8"       pods beyond it wait as spares; all of them train without it
    kubarium.dev/elastic-wait: 15s    how long room for a missing rank is waited for before it
                                      goes on smaller
    kubarium.dev/max-restarts: "10"   failures of ranks in a row, without a new checkpoint between

The Job's controller makes the pods, spares included, and puts the launcher
(:mod:`kubarium.train.launch`) before their first container's command; the gang's controller gives
each its rank, attempt by attempt; the node hands that to the launcher and says how it goes by a
condition of the pod.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubarium.api.labels import COMPLETION_INDEX
from kubarium.api.resource import Document
from kubarium.view.stalls import seconds_of

SPARES = "kubarium.dev/spares"
MIN_RANKS = "kubarium.dev/min-ranks"
MAX_RANKS = "kubarium.dev/max-ranks"
WAIT = "kubarium.dev/elastic-wait"
MAX_RESTARTS = "kubarium.dev/max-restarts"
ASKING = (SPARES, MIN_RANKS, MAX_RANKS)
ALL = (*ASKING, WAIT, MAX_RESTARTS)
DEFAULT_WAIT_S = 15.0
DEFAULT_MAX_RESTARTS = 10
# More spares than this are a slip of the pen.
MOST_SPARES = 1000

# On pods: a label while it waits, its rank of this attempt, and the name that it has taken over.
SPARE = "kubarium.dev/spare"
WORLD = "kubarium.dev/world"
HOSTNAME = "kubarium.dev/hostname"
# On the Job: the gang's record (JSON), and how it ended.
GANG = "kubarium.dev/gang"
COMPLETED, GIVEN_UP = "kubarium.dev/gang-completed", "kubarium.dev/gang-given-up"

# The node's word on the launcher: a condition of the pod, its reason a state of
# :mod:`kubarium.engine.training.gang`.
CONDITION = "gang.kubarium.dev/rank"

LAUNCHER = ("-m", "kubarium.train.launch", "--")
_PYTHON = re.compile(r"python(\d+(\.\d+)?)?")


@dataclass(frozen=True, slots=True)
class ElasticPolicy:
    """``min_ranks`` None: no fewer than all; ``max_ranks`` None: as many as the Job has."""

    spares: int = 0
    min_ranks: int | None = None
    max_ranks: int | None = None
    wait_s: float = DEFAULT_WAIT_S
    max_restarts: int = DEFAULT_MAX_RESTARTS


def asks(annotations: Mapping[str, str] | None) -> bool:
    """Whether a pod template's annotations make its pods a gang."""
    return annotations is not None and any(name in annotations for name in ASKING)


def elastic_policy(annotations: Mapping[str, str]) -> ElasticPolicy:
    """The policy; ValueError names the annotation, its value and the way out."""
    spares = _whole(annotations, SPARES, 0, 0)
    least = _whole(annotations, MIN_RANKS, None, 1)
    most = _whole(annotations, MAX_RANKS, None, 1)
    restarts = _whole(annotations, MAX_RESTARTS, DEFAULT_MAX_RESTARTS, 0)
    assert spares is not None
    assert restarts is not None
    if spares > MOST_SPARES:
        raise ValueError(f"annotation {SPARES}: {spares} is more than {MOST_SPARES}")
    if least is not None and most is not None and least > most:
        text = f"is more than {MAX_RANKS}, {most}; lower the one or raise the other"
        raise ValueError(f"annotation {MIN_RANKS}: {least} {text}")
    wait_s: float | None = DEFAULT_WAIT_S
    if WAIT in annotations:
        wait_s = seconds_of(annotations[WAIT])
        if wait_s is None or wait_s < 0:
            raise ValueError(f"annotation {WAIT}: {annotations[WAIT]!r} is no duration, as 30s")
    assert wait_s is not None
    return ElasticPolicy(spares, least, most, wait_s, restarts)


def _whole(
    annotations: Mapping[str, str], name: str, default: int | None, least: int
) -> int | None:
    text = annotations.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise ValueError(f"annotation {name}: {text!r} must be a whole number, at least {least}")
    return int(text)


def template_annotations(job: Document) -> dict[str, str]:
    """Of a Job's pod template."""
    template = (job.get("spec") or {}).get("template") or {}
    return dict((template.get("metadata") or {}).get("annotations") or {})


def policy_of(job: Document) -> ElasticPolicy | None:
    """A Job's policy; None if it asks for none, or for one that cannot be."""
    annotations = template_annotations(job)
    if not asks(annotations) or problem_of(job.get("spec") or {}) is not None:
        return None
    return elastic_policy(annotations)


def problem_of(spec: Mapping[str, Any], replicas: int = 1) -> tuple[str, str, str] | None:
    """``(path below the Job's spec, value, what is wrong)`` of a Job's spec with these annotations.

    None if all is well, or nothing is asked for.
    """
    template = spec.get("template") or {}
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    if not asks(annotations):
        return None
    place = "template.metadata.annotations"
    try:
        policy = elastic_policy(annotations)
    except ValueError as error:
        name = next((n for n in ALL if f"annotation {n}:" in str(error)), SPARES)
        return f"{place}[{name}]", annotations.get(name, ""), str(error).partition(": ")[2]
    asked = next(name for name in ASKING if name in annotations)
    completions, parallelism = spec.get("completions"), spec.get("parallelism", 1)
    if spec.get("completionMode") != "Indexed" or completions is None:
        text = f"must be Indexed, with completions, for {asked}: ranks are completion indexes"
        return "completionMode", str(spec.get("completionMode", "NonIndexed")), text
    if completions != parallelism:
        text = f"must equal completions ({completions}) for {asked}: all ranks run side by side"
        return "parallelism", str(parallelism), text
    if policy.min_ranks is not None and policy.min_ranks > completions:
        text = f"must not be more than completions, {completions}"
        return f"{place}[{MIN_RANKS}]", annotations[MIN_RANKS], text
    containers = (template.get("spec") or {}).get("containers") or [{}]
    if not containers[0].get("command"):
        text = f"is needed for {asked}: the launcher that starts it again in place must know it"
        return "template.spec.containers[0].command", "", text
    if replicas != 1:
        text = f"must be 1 for {asked}: a gang is one Job; give it more completions instead"
        return "replicas", str(replicas), text
    return None


# Pods --------------------------------------------------------------------------------------------


def is_spare(pod: Document) -> bool:
    """Whether it waits without a rank."""
    return (pod["metadata"].get("labels") or {}).get(SPARE) == "true"


def put_launcher_first(pod: Document) -> None:
    """Have the launcher start the first container's command (changed in place)."""
    container = pod["spec"]["containers"][0]
    command = list(container.get("command") or ())
    if command[1:4] == list(LAUNCHER):
        return
    first = command[0] if _PYTHON.fullmatch(command[0].rpartition("/")[2]) else "python3"
    container["command"] = [first, *LAUNCHER, *command]


def keep_apart(pod: Document, labels: Mapping[str, str]) -> None:
    """Prefer nodes without pods of these labels (changed in place): a spare is of most use where
    no rank is lost with it."""
    affinity = pod["spec"].setdefault("affinity", {})
    apart = affinity.setdefault("podAntiAffinity", {})
    term = {
        "weight": 100,
        "podAffinityTerm": {
            "labelSelector": {"matchLabels": dict(labels)},
            "topologyKey": "kubernetes.io/hostname",
        },
    }
    held = apart.get("preferredDuringSchedulingIgnoredDuringExecution") or []
    apart["preferredDuringSchedulingIgnoredDuringExecution"] = [*held, term]


@dataclass(frozen=True, slots=True)
class Report:
    """What the node says of a pod's launcher. ``step`` and ``saved`` are -1 where unknown."""

    state: str
    attempt: int
    code: int = 0
    step: int = -1
    saved: int = -1


_MESSAGE = re.compile(
    r"attempt (\d+)(?:, exit code (\d+))?(?:, step (\d+))?(?:, saved step (\d+))?"
)


def report_message(report: Report) -> str:
    """A condition's message, which :func:`report_of` reads back."""
    text = f"attempt {report.attempt}"
    if report.code:
        text += f", exit code {report.code}"
    if report.step >= 0:
        text += f", step {report.step}"
    if report.saved >= 0:
        text += f", saved step {report.saved}"
    return text


def report_of(pod: Document) -> Report | None:
    """None as long as the launcher has not come up."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == CONDITION and condition.get("status") == "True":
            match = _MESSAGE.match(condition.get("message", ""))
            if match is None:
                return None
            attempt, code, step, saved = (int(g) if g else None for g in match.groups())
            return Report(
                condition.get("reason", ""),
                attempt or 0,
                code or 0,
                -1 if step is None else step,
                -1 if saved is None else saved,
            )
    return None


def world_of(pod: Document) -> dict[str, Any]:
    """The rank that the pod has been given; {} if none."""
    return from_text((pod["metadata"].get("annotations") or {}).get(WORLD, ""))


def record_of(job: Document) -> dict[str, Any]:
    """The gang's record; {} before its first attempt."""
    return from_text((job["metadata"].get("annotations") or {}).get(GANG, ""))


def from_text(text: str) -> dict[str, Any]:
    """What :func:`as_text` wrote; {} for any other text."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def as_text(value: Mapping[str, Any]) -> str:
    """For an annotation."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def ending_of(job: Document) -> tuple[str, str]:
    """(how many ranks completed, why the gang was given up), each "" if not so."""
    annotations = job["metadata"].get("annotations") or {}
    return annotations.get(COMPLETED, ""), annotations.get(GIVEN_UP, "")


def index_of(pod: Document) -> int:
    """The completion index on the pod, -1 if it has none."""
    text = (pod["metadata"].get("labels") or {}).get(COMPLETION_INDEX, "")
    return int(text) if text.isdecimal() else -1


def hostname_of(pod: Document) -> str:
    """The name that it answers to below its subdomain: its own, or that of the rank it has taken;
    "" if it has none."""
    taken = (pod["metadata"].get("annotations") or {}).get(HOSTNAME)
    return str(taken or pod["spec"].get("hostname") or "")


# In words ----------------------------------------------------------------------------------------


def gang_lines(job: Document) -> list[str]:
    """How a Job's gang stands, for ``kubarium why``; [] for any other object."""
    policy = policy_of(job) if job.get("kind") == "Job" else None
    if policy is None:
        return []
    record = record_of(job)
    completions = int(job["spec"].get("completions") or 0)
    wanted = min(completions, policy.max_ranks or completions)
    if not record:
        return [f"the gang begins when all {wanted} ranks wait at the rendezvous"]
    ranks = len(record.get("ranks") or ())
    line = f"attempt {record.get('attempt')} with {ranks} of {wanted} ranks"
    step = int(record.get("step", -1))
    line += f", from step {step}" if step >= 0 else ""
    return [f"{line}: {record.get('why', '')}"]


def rank_lines(pod: Document) -> list[str]:
    """Which rank a pod of a gang has, and how its launcher is; [] for any other pod."""
    report = report_of(pod)
    if report is None:
        return []
    if is_spare(pod):
        return ["a spare: it waits to take the rank of a pod that is lost"]
    world = world_of(pod)
    said = f"its command is {report.state}, {report_message(report)}"
    if not world:
        return [f"it waits for a rank; {said}"]
    return [f"rank {world.get('rank')} of {world.get('world')}; {said}"]
