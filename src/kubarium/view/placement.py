"""The account of a pod or gang without a place: what each node and each device fails, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from kubarium.api.cel.clauses import clauses as cel_clauses
from kubarium.api.cel.clauses import comparison, guard
from kubarium.api.resource import Document
from kubarium.engine.devices.model import Rest
from kubarium.engine.explain import Explainer, Question, Subject
from kubarium.engine.explain.blockers import blocker
from kubarium.engine.explain.obstacles import Group
from kubarium.engine.explain.storage import limits_on
from kubarium.engine.explain.survey import RequestSurvey
from kubarium.engine.explain.wishes import Clause
from kubarium.engine.model import Pod
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import Decision
from kubarium.engine.snapshot import Snapshot
from kubarium.engine.verdict import Suggestion
from kubarium.view.cluster import ClusterView
from kubarium.view.missing import no_such
from kubarium.view.remedies import command

# Nodes named of those that fail the same rules, in text and in JSON, and groups of them in text.
NODES_NAMED = 3
NODES_LISTED = 100
GROUPS_TOLD = 6

# DeviceClasses named where the wanted one is missing.
CLASSES_NAMED = 5

NOTHING_HELPS = "of what was tried, no change helps, nor do several together"

# Topology domains of a gang in text.
DOMAINS_TOLD = 3


def clauses_of(expression: str) -> list[Clause]:
    """The clauses of a CEL selector, with what each compares."""
    found: list[Clause] = []
    for text in cel_clauses(expression):
        what = comparison(text)
        if what is None:
            found.append(Clause(text, guard=guard(text)))
        else:
            named = (what.name, what.is_capacity, what.operator, what.wanted)
            found.append(Clause(text, *named, guard(text)))
    return found


@dataclass(frozen=True, slots=True)
class Account:
    """What stands in the way, as text and as JSON values, and what would help."""

    tightest: str
    lines: tuple[str, ...]
    nodes: list[dict[str, Any]] = field(default_factory=list)
    devices: list[dict[str, Any]] = field(default_factory=list)
    suggestions: tuple[Suggestion, ...] = ()
    commands: Mapping[Suggestion, str] = field(default_factory=dict)


def account_of(
    view: ClusterView,
    placer: Placer,
    subject: Subject,
    decision: Decision | None = None,
    node: str = "",
    *,
    advise: bool = True,
) -> Account:
    """The account; of one node alone if ``node`` is given. ``decision`` is a gang's if known.

    Without ``advise`` nothing is said of what would help.
    """
    question = Explainer(placer, clauses_of).question(subject, decision)
    rules = view.taint_rule_names()
    groups = [group for group in question.obstacles.groups if group.rules]
    told = [_Told(view.snapshot, question, group) for group in groups]
    if node:
        told = [entry.only(node) for entry in told if node in entry.names]
    lines = [line for found in question.surveys for line in _with_rules(found, rules)]
    lines += _domains(question)
    total = len(question.subject.pods)
    if question.alike < total and told:
        name = question.subject.pods[0].key[1]
        lines.append(f"of pod {name} ({question.alike} of {total} pods ask for the same):")
    rules_of_nodes = [entry.line() for entry in told[:GROUPS_TOLD]]
    if len(told) > GROUPS_TOLD:
        rest = sum(len(entry.names) for entry in told[GROUPS_TOLD:])
        rules_of_nodes.append(f"{rest} more nodes fail otherwise")
    if node and not told:
        rules_of_nodes.append(f"node {node}: {_unlisted(view.snapshot, node)}")
    lines = rules_of_nodes + lines if node else lines + rules_of_nodes
    suggestions = with_rules(view, question.suggestions) if advise else ()
    if advise and not suggestions:
        lines.append(NOTHING_HELPS)
    return Account(
        _tightest(question, subject),
        tuple(lines),
        [entry.json() for entry in told],
        [_survey_json(found) for found in question.surveys],
        suggestions,
        commands_of(view, suggestions),
    )


def with_rules(view: ClusterView, suggestions: Sequence[Suggestion]) -> tuple[Suggestion, ...]:
    """The suggestions; tolerations say which DeviceTaintRule could go instead, as the command."""
    rules = view.taint_rule_names()
    return tuple(_with_rule(s, rules) for s in suggestions) if rules else tuple(suggestions)


def _with_rule(suggestion: Suggestion, rules: Mapping[str, str]) -> Suggestion:
    text = suggestion.text
    if suggestion.kind == "tolerate-device-taint" and suggestion.subject in rules:
        return replace(
            suggestion, text=f"{text}, or delete DeviceTaintRule {rules[suggestion.subject]}"
        )
    parts = tuple(_with_rule(part, rules) for part in suggestion.parts)
    for old, new in zip(suggestion.parts, parts, strict=True):
        text = text.replace(old.text, new.text)
    return replace(suggestion, text=text, parts=parts)


def commands_of(
    view: ClusterView, suggestions: Sequence[Suggestion], pod: Document | None = None
) -> dict[Suggestion, str]:
    """The commands that carry out suggestions, where there are any; some are about ``pod``."""
    rules = view.taint_rule_names()
    return {s: text for s in suggestions if (text := _commands(s, rules, pod))}


def missing_classes(snapshot: Snapshot, pods: Sequence[Pod]) -> tuple[str, ...]:
    """For each DeviceClass that the pods' claims name in vain, what there is instead."""
    known = snapshot.inventory.classes
    wanted = {
        request.device_class
        for pod in pods
        for key in pod.claims
        if (claim := snapshot.claims.get(key)) is not None
        for entry in claim.spec.requests
        for request in entry.alternatives
    }
    missing = sorted(wanted - set(known))
    return tuple(no_such("DeviceClass", name, known, CLASSES_NAMED) for name in missing)


def _unlisted(snapshot: Snapshot, node: str) -> str:
    if node in snapshot.rows:
        return "fails no rule of its own; what is short is room for all of the group"
    return "there is no node of this name"


def _commands(suggestion: Suggestion, rules: Mapping[str, str], pod: Document | None) -> str:
    parts = suggestion.parts or (suggestion,)
    texts = [command(part, rules, pod) for part in parts]
    return " && ".join(texts) if all(texts) else ""


def _with_rules(found: RequestSurvey, rules: Mapping[str, str]) -> Iterator[str]:
    """The survey's lines; taints that a DeviceTaintRule puts there name it."""
    for line in found.lines():
        _, marker, taint = line.partition(": taint ")
        rule = rules.get(taint, "") if marker else ""
        yield f"{line} (DeviceTaintRule {rule})" if rule else line


def _domains(question: Question) -> Iterator[str]:
    """Where the pods of a gang with a topology constraint could go: the best domains first."""
    found = question.open_nodes()
    best = sorted(found.items(), key=lambda item: (-item[1][0], item[0]))
    for name, (able, total) in best[:DOMAINS_TOLD]:
        nodes = "node" if total == 1 else "nodes"
        yield f"{name}: {able} of {total} {nodes} could take one of the pods"
    more = len(best) - DOMAINS_TOLD
    if more > 0:
        yield f"… and {more} more {'domain' if more == 1 else 'domains'}"


def _room(question: Question, subject: Subject) -> str:
    """What is short for a gang whose pods find room one by one, but not all."""
    verdict = question.decision.gang_verdict
    if subject.gang is None or verdict is None or verdict.waiting:
        return ""
    where = f" within {verdict.domain}" if verdict.domain else ""
    return f"room for all at once: {verdict.placed} of {verdict.needed} pods find a place{where}"


def _tightest(question: Question, subject: Subject) -> str:
    """The one constraint whose relaxation opens the most nodes, or the most devices."""
    found = question.obstacles.tightest()
    if subject.is_gang and (question.obstacles.codes[question.obstacles.rows] == 0).any():
        return _room(question, subject)
    if found is None:
        return ""
    rule, opened = found
    if rule.kind == "devices":
        return _tightest_device(question) or _opening(rule.text, opened)
    return _opening(rule.text, opened)


def _opening(text: str, opened: int) -> str:
    if not opened:
        return f"{text}; lifted alone it opens no node"
    noun = "node" if opened == 1 else "nodes"
    return f"{text}: without it {opened} more {noun} would do"


def _tightest_device(question: Question) -> str:
    """The rule of devices that turns away most of those that would otherwise match."""
    best: tuple[int, str] | None = None
    for found in question.surveys:
        missing = found.missing
        for clause in found.clauses:
            if clause.owner == "selector" and (best is None or clause.alone > best[0]):
                hint = f"; {clause.hint}" if clause.hint else ""
                noun = "device fails" if clause.alone == 1 else "devices fail"
                text = f"`{clause.text}` of {found.label}"
                if clause.alone:
                    best = (clause.alone, f"{text}: {clause.alone} {noun} only it{hint}")
        for reason, count in found.failed.items():
            selector = reason.startswith(("selector", "class"))
            if not selector and count > (best[0] if best else 0) and missing > 0:
                noun = "device" if count == 1 else "devices"
                best = (count, f"{found.label}: {count} {noun}: {reason}")
        if best is None and missing > 0:
            best = (0, _too_few(found))
        best = best or _note(found)
    return best[1] if best is not None else ""


def _too_few(found: RequestSurvey) -> str:
    if found.devices and not found.matching:
        return f"{found.label}: none of {found.devices} devices is of class {found.device_class}"
    noun = "device" if found.needed == 1 else "devices"
    return f"{found.label}: {found.needed} {noun} needed, {found.free} free"


def _note(found: RequestSurvey) -> tuple[int, str] | None:
    return (0, f"{found.label}: {found.notes[0]}") if found.notes else None


@dataclass(frozen=True)
class _Told:
    """Nodes that fail the same rules, in words."""

    snapshot: Snapshot
    question: Question
    group: Group
    listed: tuple[str, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        nodes = self.snapshot.nodes
        rows = self.group.rows.tolist()
        return self.listed or tuple(node.name for row in rows if (node := nodes[row]) is not None)

    def only(self, node: str) -> _Told:
        return replace(self, listed=(node,))

    def rules(self) -> list[str]:
        """Each rule, with the pod that stands in the way where there is one."""
        names = self.names
        row = self.snapshot.rows[names[0]]
        pod = self.question.subject.pods[0]
        found: list[str] = []
        for rule in self.group.rules:
            other = blocker(self.snapshot, rule, pod, row)
            text = rule.text
            if other is not None:
                where = f" on node {names[0]}" if len(names) > 1 else ""
                text = f"{text} (pod {'/'.join(other.key)}{where})"
            if rule.kind == "volume-limit":
                where = f" on node {names[0]}" if len(names) > 1 else ""
                text = f"{text} ({limits_on(self.snapshot, pod, row)}{where})"
            found.append(text)
        return found

    def line(self) -> str:
        names = sorted(self.names[: 10 * NODES_NAMED])[:NODES_NAMED]
        more = len(self.names) - len(names)
        shown = ", ".join(names) + (f" and {more} more" if more > 0 else "")
        return f"{'; '.join(self.rules())}: {shown}"

    def json(self) -> dict[str, Any]:
        names = self.names
        return {
            "count": len(names),
            "nodes": sorted(names)[:NODES_LISTED],
            "rules": [
                {"kind": rule.kind, "reason": rule.reason, "text": text}
                for rule, text in zip(self.group.rules, self.rules(), strict=True)
            ],
        }


def _survey_json(found: RequestSurvey) -> dict[str, Any]:
    return {
        "request": found.request,
        "deviceClass": found.device_class,
        "needed": found.needed,
        "devices": found.devices,
        "matching": found.matching,
        "free": found.free,
        "usable": found.usable,
        "mostOnOneNode": found.most,
        "everything": found.everything,
        "failed": dict(found.failed),
        "clauses": [
            {
                key: value
                for key, value in (
                    ("text", clause.text),
                    ("owner", clause.owner),
                    ("failing", clause.failing),
                    ("alone", clause.alone),
                    ("hint", clause.hint),
                    ("error", clause.error),
                )
                if value != ""
            }
            for clause in found.clauses
        ],
        "holders": list(found.holders),
        **({"resting": [_rest_json(rest) for rest in found.resting]} if found.resting else {}),
        "notes": list(found.notes),
        "sampled": found.sampled,
    }


def _rest_json(rest: Rest) -> dict[str, Any]:
    return {"device": str(rest.device), "until": rest.until, "text": f"device {rest.told}"}
