"""Why a composite does not start: what is wrong with its hierarchy, or which group has no room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kubarium.api.kinds import PODS
from kubarium.api.resource import Document
from kubarium.base.quoted import listed
from kubarium.engine.explain import HierarchyQuestion, Subject
from kubarium.engine.explain.hierarchy import GROUPS_TOLD, others_placed
from kubarium.engine.model import Key, Pod
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.quorum import waiting_for
from kubarium.engine.plan import QueueItem, Tree
from kubarium.engine.verdict import GangVerdict, Suggestion
from kubarium.view.cluster import ClusterView, key_of
from kubarium.view.evidence import Evidence
from kubarium.view.explanation import Explanation
from kubarium.view.forest import NAMED, disagreement
from kubarium.view.local_models import data_lines
from kubarium.view.missing import missing_claim
from kubarium.view.placement import account_of, clauses_of, commands_of
from kubarium.view.pods import gang_key, is_finished, is_gated, node_of
from kubarium.view.preempting import decided, preemption_account, promised
from kubarium.view.profiles import scheduler_name


def composite_account(evidence: Evidence, key: Key, title: str) -> Explanation:
    """The account of the hierarchy that the composite belongs to; it starts as a whole."""
    view = evidence.view
    root = view.forest.root_of_composite(key)
    fault = view.forest.fault(root)
    if fault is not None:
        return Explanation(title, "Pending", fault.text)
    groups = {k for composite, k in view.forest.below(root) if not composite}
    pods = tuple(evidence.list(PODS))
    members = [p for p in pods if gang_key(p) in groups and not is_finished(p)]
    waiting = [p for p in members if not node_of(p)]
    if not waiting and members:
        text = f"all {len(members)} pods of the hierarchy have a node"
        return Explanation(title, "Scheduled", text)
    gangs = [gang for key in groups if (gang := view.gang(key)) is not None]
    if not waiting and any(gang.scheduled_count for gang in gangs):
        return Explanation(title, "Finished", "the pods of the hierarchy have ended")
    gated = [p for p in waiting if is_gated(p)]
    waiting = [p for p in waiting if not is_gated(p)]
    rows: dict[Key, list[Pod]] = {}
    for pod in waiting:
        group = gang_key(pod)
        assert group is not None
        rows.setdefault(group, []).append(view.pod(pod))
    tree = view.forest.tree(root, view.gang, lambda group: tuple(rows.get(group, ())))
    held = held_by_gates(gated)
    if gated and (not waiting or waiting_for(tree)):
        return Explanation(title, "Gated", f"{held}; {waiting_for(tree)}" if waiting else held)
    if not waiting:
        return Explanation(title, "Pending", waiting_for(tree) or "no pod of the hierarchy exists")
    why = _before(view, waiting, tree)
    if why:
        return Explanation(title, "Pending", why)
    item, scheduler = QueueItem.of_tree(tree), scheduler_name(waiting[0])
    placer = evidence.placer(scheduler)
    with promised(view, pods, item.pods) as others:
        told = _undecided(view, placer, item, others, title)
    lines = (held,) if gated else ()
    said = data_lines(evidence.documents, view.snapshot, item.pods) if told.facts else ()
    about = evidence.profiles.about(scheduler)
    return replace(told, reasons=(*lines, *told.reasons, *said, *about))


def held_by_gates(pods: Sequence[Document]) -> str:
    """Which pods of a group wait for their gates to be lifted, by which gates."""
    gates = dict.fromkeys(g.get("name", "") for p in pods for g in p["spec"]["schedulingGates"])
    names = sorted(p["metadata"]["name"] for p in pods)
    noun, verb = ("pod", "is") if len(names) == 1 else ("pods", "are")
    shown = f"{noun} {listed(names, NAMED)} {verb}"
    return f"{shown} held by the scheduling gate {' and '.join(gates)}" if pods else ""


def _before(view: ClusterView, waiting: list[Document], tree: Tree) -> str:
    """What keeps the scheduler from looking for room at all; "" if nothing does."""
    rows = [pod for leaf in tree.leaves() for pod in leaf.pods]
    of = {key_of(p): scheduler_name(p) for p in waiting}
    names = [of[pod.key] for pod in rows]
    conflict = disagreement(rows, names, (leaf.gang for leaf in tree.leaves() if leaf.pods))
    if conflict or (conflict := waiting_for(tree)):
        return conflict
    texts = (missing_claim(pod, view.snapshot.claims) for pod in waiting)
    return next((text for text in texts if text), "")


def _undecided(
    view: ClusterView,
    placer: Placer,
    item: QueueItem,
    others: Sequence[tuple[Pod, str]],
    title: str,
) -> Explanation:
    """What would be decided now; ``others`` are promised room."""
    tree = item.tree
    assert tree is not None
    placer.nominated = tuple(other.key for other, _ in others)
    decision = decided(placer, item)
    verdict = decision.gang_verdict
    if verdict is None:
        left = len(decision.unplaced)
        text = "the hierarchy fits now; the scheduler has not placed it yet"
        if left:
            text = (
                f"{left} pods beyond the minimum find no room: {decision.unplaced[0][1].message()}"
            )
        return Explanation(title, "Pending", text)
    facts: dict[str, object] = {
        "needed": verdict.needed,
        "found_room": verdict.placed,
        "undecided": verdict.undecided,
    }
    question = HierarchyQuestion(placer, clauses_of, tree, verdict)
    advice = question.advice()
    accounts = _accounts(view, placer, tree, question.failed, advice.of_groups)
    children = tuple(_of_verdict(child, accounts) for child in verdict.children)
    preemption = preemption_account(placer, item, others, decision)
    if preemption.text:
        facts["preemption"] = preemption.text
    return Explanation(
        title,
        "Pending",
        verdict.message(),
        preemption.lines,
        (*advice.together, *preemption.suggestions),
        facts=facts,
        children=children,
        commands=commands_of(view, advice.together),
    )


def _accounts(
    view: ClusterView,
    placer: Placer,
    tree: Tree,
    failed: Mapping[Key, GangVerdict],
    advice: Mapping[Key, tuple[Suggestion, ...]],
) -> dict[Key, Explanation]:
    """The accounts of the first groups that found no room, with the others in their places."""
    leaves = {leaf.key: leaf for leaf in tree.leaves() if leaf.pods}
    found: dict[Key, Explanation] = {}
    for key in list(failed)[:GROUPS_TOLD]:
        leaf, suggestions = leaves[key], advice.get(key, ())
        with others_placed(placer, tree, failed):
            account = account_of(view, placer, Subject(leaf.pods, leaf.gang), advise=False)
        found[key] = Explanation(
            "",
            "",
            "",
            account.lines,
            suggestions,
            nodes=account.nodes,
            devices=account.devices,
            tightest=account.tightest,
            commands=commands_of(view, suggestions),
        )
    return found


def _of_verdict(verdict: GangVerdict, accounts: Mapping[Key, Explanation]) -> Explanation:
    kind = "compositepodgroup" if verdict.composite else "podgroup"
    first = verdict.first_failure
    lines = tuple(f"{count} nodes: {why}" for why, count in first.counts.items()) if first else ()
    account = accounts.get(verdict.gang) or Explanation("", "", "", lines)
    return replace(
        account,
        subject=f"{kind} {'/'.join(verdict.gang)}",
        state="Pending",
        summary=verdict.waiting or verdict.summary(),
        facts={"needed": verdict.needed, "found_room": verdict.placed, "proven": verdict.exact},
        children=tuple(_of_verdict(child, accounts) for child in verdict.children),
    )
