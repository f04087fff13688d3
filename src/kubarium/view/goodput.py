"""Where a training run's time went, from documents: a JobSet or Job and its ranks' histories.

Before a rank's first report the API's own times say what it was doing; afterwards its reports do.
Accounts, scores and advice are the engine's (:mod:`kubarium.engine.training`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.engine.training.checkpointing import (
    Advice,
    CheckpointModel,
    advise,
    mean_between_failures,
)
from kubarium.engine.training.goodput import (
    ACCOUNTS,
    ASSEMBLY,
    CHECKPOINT,
    HANG,
    IMAGE,
    IMPORT,
    QUEUE,
    RESTART,
    STEP,
    Accounts,
    Span,
    account,
    stragglers,
)
from kubarium.view.elastic import record_of

# A rank's mean time between failures before any was seen: Meta's research clusters at 1,024 GPUs
# fail every 7.9 h (arXiv 2410.21680), so one GPU about once in 8,000 h.
PRIOR_RANK_S = 1024 * 7.9 * 3600
# A hang of one rank is noticed a little before or after the others' last step.
HANG_SKEW_S = 2.0
# A span of a pod's history, no account: it waited as a spare.
SPARE = "spare"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One pod of one rank. Times are seconds since the epoch, 0 if not (yet) so."""

    rank: int
    pod: str
    node: str
    created: float
    scheduled: float
    started: float
    ended: float
    outcome: str
    step: int
    saved_step: int
    resumed_from: int
    spans: tuple[Span, ...]
    joined: bool = False


@dataclass(frozen=True, slots=True)
class GangAttempt:
    """One attempt of a gang that restarts in place; ``step`` -1 where it is not known."""

    number: int
    ranks: int
    began: float
    step: int
    why: str
    spares: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunReport:
    """What is known of a run. ``lost_steps`` counts, for each restart, steps done and not kept."""

    title: str
    began: float
    ended: float
    is_over: bool
    accounts: Accounts
    ranks: Mapping[int, Sequence[Span]]
    attempts: tuple[Attempt, ...]
    restarts: int
    lost_steps: tuple[int, ...]
    scores: Mapping[int, float]
    step: int
    saved_step: int
    step_s: float | None
    save_s: float | None
    advice: Advice | None
    notes: tuple[str, ...] = field(default=())
    # Beside the ranks: seconds for which spares held their places, and a gang's attempts.
    spare_s: float = 0.0
    gang: tuple[GangAttempt, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The report for machines: seconds, shares from 0 to 1."""
        found: dict[str, Any] = {
            "run": self.title,
            "began": self.began,
            "ended": self.ended,
            "over": self.is_over,
            "ranks": len(self.ranks),
            "wallSeconds": self.accounts.wall_s,
            "rankSeconds": dict(self.accounts.seconds),
            "shares": {name: self.accounts.share(name) for name in ACCOUNTS},
            "effectiveTrainingTimeRatio": self.accounts.effective,
            "schedulingGoodput": self.accounts.scheduling_goodput,
            "runtimeGoodput": self.accounts.runtime_goodput,
            "restarts": self.restarts,
            "lostSteps": list(self.lost_steps),
            "step": self.step,
            "savedStep": self.saved_step,
            "stepSeconds": self.step_s,
            "saveStallSeconds": self.save_s,
            "stragglerScores": {str(rank): score for rank, score in self.scores.items()},
            "spareSeconds": self.spare_s,
            "notes": list(self.notes),
        }
        if self.gang:
            found["gang"] = [
                {
                    "attempt": attempt.number,
                    "ranks": attempt.ranks,
                    "began": attempt.began,
                    "step": attempt.step,
                    "why": attempt.why,
                    "spares": list(attempt.spares),
                }
                for attempt in self.gang
            ]
        if self.advice is not None:
            found["advice"] = {
                "everySteps": self.advice.every_steps,
                "intervalSeconds": self.advice.interval_s,
                "keptShare": self.advice.kept,
                "youngSeconds": self.advice.young_s,
            }
        return found


def run_report(
    owner: Document, histories: Iterable[Document], jobs: Iterable[Document], now: float
) -> RunReport:
    """The report on a JobSet or Job; ``histories`` and ``jobs`` are those that belong to it."""
    jobs = list(jobs)
    offsets, count = _numbering(owner, jobs)
    found = [_attempt(history, offsets) for history in histories]
    attempts = tuple(sorted((a for a in found if a.rank >= 0), key=lambda a: (a.rank, a.created)))
    gang = _gang([owner, *jobs])
    began = parse_rfc3339(owner["metadata"]["creationTimestamp"])
    finished = _finished_at(owner)
    ended = max(began, finished if finished is not None else _known_until(attempts, now))
    by_rank: dict[int, list[Attempt]] = {rank: [] for rank in range(count)}
    for attempt in attempts:
        by_rank.setdefault(attempt.rank, []).append(attempt)
    hangs = [s.began for a in attempts for s in a.spans if s.what == HANG]
    ranks = {rank: _spans(found, began, ended, hangs) for rank, found in sorted(by_rank.items())}
    order = list(ranks)
    accounts = account([ranks[rank] for rank in order], began, ended)
    scores = dict(zip(order, stragglers([ranks[rank] for rank in order]), strict=True))
    restarts = max((len(found) - 1 for found in by_rank.values()), default=0)
    if gang:
        restarts = max(restarts, len(gang) - 1)
    step_s, save_s = _usual_step_s(attempts), _usual_save_s(attempts)
    return RunReport(
        _title(owner),
        began,
        ended,
        finished is not None,
        accounts,
        ranks,
        attempts,
        max(restarts, 0),
        _steps_done_again(ranks) if gang else _lost_steps(by_rank),
        scores,
        max((a.step for a in attempts), default=0),
        max((a.saved_step for a in attempts), default=-1),
        step_s,
        save_s,
        _advice(step_s, save_s, accounts, len(order), max(restarts, 0)),
        _notes(attempts),
        sum(_waited(attempt, ended) for attempt in found),
        gang,
    )


def _waited(attempt: Attempt, ended: float) -> float:
    """Seconds for which a pod was a spare, from its place on a node to its rank or its end."""
    since = attempt.scheduled or attempt.started
    if attempt.rank >= 0:
        return max(0.0, attempt.started - since) if attempt.joined else 0.0
    return max(0.0, (attempt.ended or ended) - since) if since else 0.0


def _gang(documents: Iterable[Document]) -> tuple[GangAttempt, ...]:
    """The attempts of a gang that restarts in place, from its Job's record."""
    found: list[GangAttempt] = []
    for document in documents:
        record = record_of(document)
        if not record.get("attempt"):
            continue
        last = {
            **record,
            "ranks": len(record.get("ranks") or ()),
            "spares": [entry.get("pod", "") for entry in record.get("spares") or ()],
        }
        found += [
            GangAttempt(
                int(entry.get("attempt", 0)),
                int(entry.get("ranks", 0)),
                float(entry.get("at", 0.0)),
                int(entry.get("step", -1)),
                str(entry.get("why", "")),
                tuple(map(str, entry.get("spares") or ())),
            )
            for entry in [*(record.get("history") or ()), last]
        ]
    return tuple(found)


def _steps_done_again(ranks: Mapping[int, Sequence[Span]]) -> tuple[int, ...]:
    """For each time that the gang went back: the steps that it had to do again, by the rank that
    had most of them."""
    found: dict[int, int] = {}
    for spans in ranks.values():
        last, times = 0, 0
        for span in sorted(spans, key=lambda s: s.began):
            if span.what != STEP:
                continue
            if span.first and last:
                lost = max(0, last - (span.step - span.count))
                found[times] = max(found.get(times, 0), lost)
                times += 1
            last = max(last, span.step) if not span.first else span.step
    return tuple(found[time] for time in sorted(found))


def _title(owner: Document) -> str:
    metadata = owner["metadata"]
    return f"{owner.get('kind', 'Job').lower()}/{metadata['name']}"


def _attempt(history: Document, offsets: Mapping[str, int]) -> Attempt:
    spec, status = history.get("spec") or {}, history.get("status") or {}
    spans = tuple(
        Span(
            float(entry["began"]),
            float(entry["ended"]),
            str(entry["what"]) if entry["what"] in (STEP, *ACCOUNTS) else "other",
            int(entry.get("step", 0)),
            float(entry.get("waited", 0.0)),
            bool(entry.get("first", False)),
            True,
            int(entry.get("count", 1)),
        )
        for entry in status.get("spans") or ()
    )
    started = float(status.get("startedAt", 0.0))
    # A spare that has taken a rank began with it; what it did before it did beside the ranks.
    waited = [float(e["ended"]) for e in status.get("spans") or () if e["what"] == SPARE]
    if waited:
        started = max(waited)
        spans = tuple(span for span in spans if span.began >= started)
    return Attempt(
        _rank(spec, offsets),
        str(spec.get("podName", "")),
        str(spec.get("nodeName", "")),
        float(status.get("createdAt", 0.0)),
        float(status.get("scheduledAt", 0.0)),
        started,
        float(status.get("endedAt", 0.0)),
        str(status.get("outcome", "")),
        int(status.get("step", 0)),
        int(status.get("savedStep", -1)),
        int(status.get("resumedFrom", 0)),
        spans,
        bool(waited),
    )


def _rank(spec: Document, offsets: Mapping[str, int]) -> int:
    """Of all Jobs' ranks; -1 for a spare."""
    own = int(spec.get("rank", 0))
    return own if own < 0 else own + offsets.get(str(spec.get("jobName", "")), 0)


def _known_until(attempts: Sequence[Attempt], now: float) -> float:
    """A run that goes on is known up to the newest report: histories are written now and then."""
    live = [a for a in attempts if not a.ended]
    reported = [s.ended for a in live for s in a.spans]
    if not live or not reported or any(not a.spans for a in live):
        return now
    return max(reported)


def _spans(
    attempts: Sequence[Attempt], began: float, ended: float, hangs: Sequence[float]
) -> list[Span]:
    """One rank's whole time: what the API knows before each attempt, then its reports.

    ``hangs`` are the moments at which any rank of the gang began to hang: from then on all wait.
    """
    found: list[Span] = []
    free_at = began
    reports = any(a.spans for a in attempts)
    counts = any(s.what == STEP for a in attempts for s in a.spans)
    for number, attempt in enumerate(attempts):
        if number:  # from the end of one attempt to the next container, whatever it waits for
            found.append(Span(free_at, attempt.started or ended, RESTART))
        else:
            found.append(Span(free_at, attempt.created, QUEUE))
            scheduled = attempt.scheduled or ended
            found.append(Span(attempt.created, scheduled, ASSEMBLY))
            found.append(Span(scheduled, attempt.started or ended, IMAGE))
        free_at = attempt.ended or ended
        if reports and attempt.started:
            found += _told(attempt, free_at, hangs, counts)
    if not attempts:
        found.append(Span(began, ended, QUEUE))
    return found


def _told(attempt: Attempt, ended: float, hangs: Sequence[float], counts: bool) -> list[Span]:
    """An attempt of a rank that reports, up to its end or the end of what is known. ``counts``: it
    reports steps; of others only the launcher tells, and what they did before they failed is not
    known."""
    if not attempt.spans:
        return [Span(attempt.started, ended, IMPORT)]
    last = max((s.ended for s in attempt.spans if s.what != HANG), default=attempt.started)
    found = [span for span in attempt.spans if span.what != HANG]
    if any(last - HANG_SKEW_S <= at <= ended for at in hangs):
        found.append(Span(last, ended, HANG))
    elif counts and attempt.ended and attempt.outcome != "Completed":
        # A step that was never finished, and the way down: what the failure cost.
        found.append(Span(last, ended, RESTART))
    return found


def _numbering(owner: Document, jobs: Iterable[Document]) -> tuple[dict[str, int], int]:
    """The first rank of each Job, in the order of their names, and the number of all ranks."""
    own = [owner] if owner.get("kind") == "Job" else sorted(jobs, key=_name)
    offsets: dict[str, int] = {}
    count = 0
    for job in own:
        offsets[_name(job)] = count
        count += int(job["spec"].get("parallelism", 1))
    return offsets, count


def _name(document: Document) -> str:
    return str(document["metadata"]["name"])


def _finished_at(owner: Document) -> float | None:
    for condition in (owner.get("status") or {}).get("conditions") or ():
        ends = condition.get("type") in ("Complete", "Completed", "Failed")
        if ends and condition.get("status") == "True":
            return parse_rfc3339(condition["lastTransitionTime"])
    return None


def _lost_steps(by_rank: Mapping[int, Sequence[Attempt]]) -> tuple[int, ...]:
    """For each restart the steps that were done and had to be done again, the largest of ranks.

    An attempt that ended before it could resume counts with the one after it.
    """
    found: dict[int, int] = {}
    for attempts in by_rank.values():
        told = [attempt for attempt in attempts if attempt.spans]
        for number, (before, after) in enumerate(pairwise(told)):
            lost = max(0, before.step - after.resumed_from)
            found[number] = max(found.get(number, 0), lost)
    return tuple(found[number] for number in sorted(found))


def _median(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _usual_step_s(attempts: Iterable[Attempt]) -> float | None:
    return _median(
        [
            (s.ended - s.began) / s.count
            for a in attempts
            for s in a.spans
            if s.what == STEP and not s.first
        ]
    )


def _usual_save_s(attempts: Iterable[Attempt]) -> float | None:
    return _median([s.ended - s.began for a in attempts for s in a.spans if s.what == CHECKPOINT])


def _advice(
    step_s: float | None, save_s: float | None, accounts: Accounts, ranks: int, failures: int
) -> Advice | None:
    """How often to save; None before a step and a save were measured."""
    if not step_s or not save_s or not ranks:
        return None
    between = mean_between_failures(
        accounts.wall_s, failures, ranks=ranks, prior_rank_s=PRIOR_RANK_S
    )
    restart_s = accounts.seconds[RESTART] / ranks / failures if failures else 0.0
    return advise(CheckpointModel(save_s, between, restart_s), step_s)


def _notes(attempts: Sequence[Attempt]) -> tuple[str, ...]:
    heard = {a.rank for a in attempts if a.spans}
    silent = sorted({a.rank for a in attempts if a.started} - heard)
    if not silent:
        return ()
    who = (
        "no rank reports"
        if len(silent) == len({a.rank for a in attempts})
        else (f"ranks {', '.join(map(str, silent))} do not report")
    )
    return (f"{who} progress, so its time is 'other': wrap the training loop in kubarium.train",)
