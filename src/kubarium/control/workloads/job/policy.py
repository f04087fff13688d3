"""podFailurePolicy and successPolicy of a Job (KEP-3329, KEP-3998). Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from kubarium.api.resource import Document
from kubarium.control.workloads.job.indexes import IndexSet

FAIL_JOB = "FailJob"
FAIL_INDEX = "FailIndex"
IGNORE = "Ignore"
COUNT = "Count"


@dataclass(frozen=True, slots=True)
class FailureVerdict:
    """What the policy says of one failed pod. ``message`` is set for FailJob only."""

    action: str = ""
    message: str = ""

    @property
    def is_counted(self) -> bool:
        """Whether the failure counts towards the back-off limit."""
        return self.action != IGNORE


def judge_failure(policy: Document | None, pod: Document) -> FailureVerdict:
    """The first matching rule decides; without one the failure counts."""
    for position, rule in enumerate((policy or {}).get("rules") or ()):
        why = _exit_code_match(rule, pod) or _condition_match(rule, pod)
        if why:
            action = rule["action"]
            message = f"{why} matching {action} rule at index {position}"
            return FailureVerdict(action, message if action == FAIL_JOB else "")
    return FailureVerdict()


def _exit_code_match(rule: Document, pod: Document) -> str:
    requirement = rule.get("onExitCodes")
    if not requirement:
        return ""
    wanted_container = requirement.get("containerName")
    told = pod.get("status") or {}
    lists = ("containerStatuses", "initContainerStatuses")  # whose exit is told, if several match
    for status in (status for name in lists for status in told.get(name) or ()):
        if wanted_container and status["name"] != wanted_container:
            continue
        terminated = status.get("state", {}).get("terminated")
        if terminated is None or terminated.get("exitCode", 0) == 0:
            continue
        listed = terminated["exitCode"] in (requirement.get("values") or ())
        if listed == (requirement["operator"] == "In"):
            metadata = pod["metadata"]
            return (
                f"Container {status['name']} for pod {metadata['namespace']}/{metadata['name']} "
                f"failed with exit code {terminated['exitCode']}"
            )
    return ""


def _condition_match(rule: Document, pod: Document) -> str:
    conditions = pod.get("status", {}).get("conditions") or ()
    patterns = {(p["type"], p.get("status", "True")) for p in rule.get("onPodConditions") or ()}
    for condition in conditions if patterns else ():
        if (condition.get("type"), condition.get("status")) in patterns:
            where = "{namespace}/{name}".format(**pod["metadata"])
            return f"Pod {where} has condition {condition['type']}"
    return ""


def match_success(policy: Document | None, completions: int, succeeded: IndexSet) -> str:
    """ "Matched rules at index N" once a rule of a successPolicy is met, else ""."""
    for position, rule in enumerate((policy or {}).get("rules") or ()):
        wanted = IndexSet.parse(rule.get("succeededIndexes") or "", completions)
        needed = rule.get("succeededCount")
        if rule.get("succeededIndexes"):
            have = succeeded.count_in(wanted)
            # All that there are suffice, should the Job have fewer completions than the rule says.
            least = len(wanted) if needed is None else min(needed, len(wanted))
            met = have >= least and bool(wanted)
        else:
            met = needed is not None and len(succeeded) >= needed
        if met:
            return f"Matched rules at index {position}"
    return ""
