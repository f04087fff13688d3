"""Where the time of many runs went, by team: a namespace, a queue, or the value of a label. Pure.

Each run's accounts are those of :func:`kubarium.view.goodput.run_report`; a team's are their sums,
so that they add up to the sum of wall time × ranks of its runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubarium.api.formats import qualified_name
from kubarium.api.resource import Document
from kubarium.engine.training.goodput import ACCOUNTS, PRODUCTIVE, Accounts
from kubarium.view.goodput import RunReport, run_report

NAMESPACE, QUEUE_NAME, LABEL = "namespace", "queue", "label:"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
JOBSET_NAME = "jobset.sigs.k8s.io/jobset-name"
JOB_NAME = "batch.kubernetes.io/job-name"
NOBODY = "(none)"


@dataclass(frozen=True, slots=True)
class Run:
    """One JobSet or Job with its report."""

    namespace: str
    labels: Mapping[str, str]
    report: RunReport


@dataclass(frozen=True, slots=True)
class Team(Accounts):
    """The sums over a team's runs, their ranks' times one after the other as those of one rank."""

    name: str
    runs: tuple[Run, ...]

    @property
    def worst(self) -> str:
        """The account that cost most, but for progress; "" if nothing was lost."""
        losses = {a: s for a, s in self.seconds.items() if a != PRODUCTIVE and s > 0}
        return max(losses, key=lambda a: losses[a]) if losses else ""

    def to_json(self) -> dict[str, Any]:
        """For machines: seconds, shares from 0 to 1."""
        return {
            "team": self.name,
            "runs": [f"{run.namespace}/{run.report.title}" for run in self.runs],
            "rankSeconds": self.rank_seconds,
            "accounts": dict(self.seconds),
            "shares": {account: self.share(account) for account in ACCOUNTS},
            "effectiveTrainingTimeRatio": self.effective,
            "schedulingGoodput": self.scheduling_goodput,
            "runtimeGoodput": self.runtime_goodput,
            "restarts": sum(run.report.restarts for run in self.runs),
        }


def reports(
    jobsets: Iterable[Document],
    jobs: Sequence[Document],
    histories: Iterable[Document],
    now: float,
) -> list[Run]:
    """Every JobSet, and every Job that is no JobSet's, with its report."""
    by_owner: dict[tuple[str, str, str], list[Document]] = {}
    for history in histories:
        by_owner.setdefault(_owner(history), []).append(history)
    children: dict[tuple[str, str], list[Document]] = {}
    alone = []
    for job in jobs:
        name = _labels(job).get(JOBSET_NAME)
        if name:
            children.setdefault((_namespace(job), name), []).append(job)
        else:
            alone.append(job)
    found = []
    for kind, owners in (("JobSet", jobsets), ("Job", alone)):
        for owner in owners:
            namespace, name = _namespace(owner), str(owner["metadata"]["name"])
            mine = by_owner.get((kind, namespace, name), [])
            own = children.get((namespace, name), []) if kind == "JobSet" else []
            report = run_report({"kind": kind, **owner}, mine, own, now)
            found.append(Run(namespace, _labels(owner), report))
    return found


def teams(runs: Iterable[Run], by: str) -> list[Team]:
    """Runs together, the team with most time first. ``by``: namespace, queue or label:KEY;
    ValueError otherwise."""
    key = by.removeprefix(LABEL)
    if by not in (NAMESPACE, QUEUE_NAME) and (key == by or qualified_name(key)):
        raise ValueError(f"--by {by!r}: write {NAMESPACE}, {QUEUE_NAME} or {LABEL}KEY")
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(_team(run, by), []).append(run)
    found = [_sum(name, members) for name, members in grouped.items()]
    return sorted(found, key=lambda team: (-team.rank_seconds, team.name))


def _sum(name: str, runs: Sequence[Run]) -> Team:
    accounts = [run.report.accounts for run in runs]
    seconds = {a: sum(one.seconds[a] for one in accounts) for a in ACCOUNTS}
    return Team(sum(one.rank_seconds for one in accounts), 1, seconds, name, tuple(runs))


def _team(run: Run, by: str) -> str:
    if by == NAMESPACE:
        return run.namespace
    key = QUEUE_LABEL if by == QUEUE_NAME else by.removeprefix(LABEL)
    return run.labels.get(key) or NOBODY


def _owner(history: Document) -> tuple[str, str, str]:
    labels, spec = _labels(history), history.get("spec") or {}
    jobset = labels.get(JOBSET_NAME) or spec.get("jobSetName")
    if jobset:
        return "JobSet", _namespace(history), str(jobset)
    return "Job", _namespace(history), str(labels.get(JOB_NAME) or spec.get("jobName") or "")


def _namespace(document: Document) -> str:
    return str(document["metadata"].get("namespace", ""))


def _labels(document: Document) -> dict[str, str]:
    return document["metadata"].get("labels") or {}
