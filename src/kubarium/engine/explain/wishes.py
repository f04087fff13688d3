"""Changes to what a pod or a claim asks for: each clause left out alone, each amount lowered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from kubarium.engine.devices.model import (
    ALL,
    EXACT_COUNT,
    Amount,
    ClaimSpec,
    Constraint,
    DeviceTaint,
    Request,
)
from kubarium.engine.explain.subject import OWN_CLAIM, OWN_WISH, SMALLER, Change
from kubarium.engine.model import (
    HostPort,
    PodShape,
    PodTerm,
    SpreadConstraint,
    Taint,
    Toleration,
)
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.engine.verdict import Suggestion


@dataclass(frozen=True, slots=True)
class Clause:
    """One clause of a CEL selector; what it compares, if that is one value with a constant.

    ``guard`` asks for what the clause reads, which makes the selector fail where it is not there.
    """

    text: str
    name: str = ""
    is_capacity: bool = False
    operator: str = ""
    wanted: str = ""
    guard: str = ""


# A CEL selector -> its clauses, all of which must hold.
Clauses = Callable[[str], Sequence[Clause]]


def whole(expression: str) -> Sequence[Clause]:
    """A selector that nobody can take apart."""
    return (Clause(expression),)


# Pods


def without_clause(clause: Requirement) -> Change:
    """The node selector without one clause."""
    text = f"remove node selector clause {clause}"

    def change(shape: PodShape) -> PodShape:
        return replace(shape, node_selector=tuple(c for c in shape.node_selector if c != clause))

    return Change(Suggestion("remove-selector", text, str(clause)), OWN_WISH, shape=change)


def corrected_clause(clause: Requirement, meant: Requirement) -> Change:
    """The node selector with a misspelt clause put right."""
    text = f"change node selector clause {clause} to {meant}"

    def change(shape: PodShape) -> PodShape:
        clauses = tuple(meant if c == clause else c for c in shape.node_selector)
        return replace(shape, node_selector=clauses)

    return Change(Suggestion("correct-selector", text, str(clause)), OWN_WISH - 1, shape=change)


def without_affinity() -> Change:
    """No required node affinity."""
    text = "remove the required node affinity"

    def change(shape: PodShape) -> PodShape:
        return replace(shape, affinity=None)

    return Change(Suggestion("remove-affinity", text, "nodeAffinity"), OWN_WISH + 1, shape=change)


def without_affinity_clause(
    terms: Sequence[NodeTerm], clause: Requirement, hint: str = ""
) -> Change | None:
    """The required node affinity without one clause, in every term that has it.

    None where that leaves a term without clauses: such a term matches no node at all.
    """
    text = f"remove the node affinity clause {clause}{hint}"
    if not all(map(_asks, _rewritten(terms, clause, None))):
        return None

    def change(shape: PodShape) -> PodShape:
        if shape.affinity is None:
            return shape
        return replace(shape, affinity=_rewritten(shape.affinity, clause, None))

    return Change(Suggestion("remove-affinity-clause", text, str(clause)), OWN_WISH, shape=change)


def corrected_affinity_clause(clause: Requirement, meant: Requirement) -> Change:
    """The required node affinity with a misspelt clause put right."""
    text = f"change the node affinity clause {clause} to {meant}"

    def change(shape: PodShape) -> PodShape:
        if shape.affinity is None:
            return shape
        return replace(shape, affinity=_rewritten(shape.affinity, clause, meant))

    return Change(Suggestion("correct-affinity", text, str(clause)), OWN_WISH - 1, shape=change)


def _rewritten(
    terms: Sequence[NodeTerm], clause: Requirement, new: Requirement | None
) -> tuple[NodeTerm, ...]:
    """The terms with ``new`` in place of a clause, or without it."""

    def changed(clauses: Sequence[Requirement]) -> tuple[Requirement, ...]:
        found = (new if c == clause else c for c in clauses)
        return tuple(c for c in found if c is not None)

    return tuple(NodeTerm(changed(term.labels), changed(term.fields)) for term in terms)


def _asks(term: NodeTerm) -> bool:
    return bool(term.labels or term.fields)


def tolerating(taint: Taint) -> Change:
    """A toleration for one taint of nodes."""
    extra = Toleration(taint.key, "Equal", taint.value, taint.effect)

    def change(shape: PodShape) -> PodShape:
        return replace(shape, tolerations=(*shape.tolerations, extra))

    text = f"tolerate taint {taint}"
    return Change(Suggestion("tolerate-taint", text, str(taint)), OWN_WISH + 2, shape=change)


def without_port(port: HostPort) -> Change:
    """No such host port."""

    def change(shape: PodShape) -> PodShape:
        return replace(shape, ports=tuple(p for p in shape.ports if p != port))

    text = f"do without host port {port.port}"
    return Change(Suggestion("remove-port", text, str(port.port)), OWN_WISH + 1, shape=change)


def without_spread(constraint: SpreadConstraint) -> Change:
    """No such spread constraint."""

    def change(shape: PodShape) -> PodShape:
        return replace(shape, spread=tuple(c for c in shape.spread if c != constraint))

    key = constraint.topology_key
    text = f"remove the spread constraint over {key}"
    return Change(Suggestion("remove-spread", text, key), OWN_WISH + 1, shape=change)


def with_skew(constraint: SpreadConstraint, skew: int) -> Change:
    """A larger maxSkew."""

    def change(shape: PodShape) -> PodShape:
        wider = tuple(replace(c, max_skew=skew) if c == constraint else c for c in shape.spread)
        return replace(shape, spread=wider)

    key = constraint.topology_key
    text = f"raise maxSkew of the spread over {key} from {constraint.max_skew} to {skew}"
    return Change(Suggestion("raise-skew", text, key, amount=skew), OWN_WISH, shape=change)


def with_min_domains(constraint: SpreadConstraint, domains: int) -> Change:
    """As many domains wanted as there are."""

    def change(shape: PodShape) -> PodShape:
        fewer = tuple(
            replace(c, min_domains=domains) if c == constraint else c for c in shape.spread
        )
        return replace(shape, spread=fewer)

    key, old = constraint.topology_key, constraint.min_domains
    text = f"lower minDomains of the spread over {key} from {old} to {domains}"
    return Change(
        Suggestion("lower-min-domains", text, key, amount=domains), OWN_WISH, shape=change
    )


def spreading_over(constraint: SpreadConstraint, key: str) -> Change:
    """The constraint with another topology key."""

    def change(shape: PodShape) -> PodShape:
        other = tuple(replace(c, topology_key=key) if c == constraint else c for c in shape.spread)
        return replace(shape, spread=other)

    text = f"spread over {key} instead of {constraint.topology_key}"
    return Change(Suggestion("correct-topology-key", text, key), OWN_WISH - 1, shape=change)


def without_pod_affinity(term: PodTerm) -> Change:
    """No such required pod affinity."""

    def change(shape: PodShape) -> PodShape:
        return replace(shape, pod_affinity=tuple(t for t in shape.pod_affinity if t != term))

    key = term.topology_key
    text = f"remove the required pod affinity over {key}"
    return Change(Suggestion("remove-pod-affinity", text, key), OWN_WISH + 1, shape=change)


def without_pod_anti_affinity(term: PodTerm) -> Change:
    """No such required pod anti-affinity."""

    def change(shape: PodShape) -> PodShape:
        left = tuple(t for t in shape.pod_anti_affinity if t != term)
        return replace(shape, pod_anti_affinity=left)

    key = term.topology_key
    text = f"remove the required pod anti-affinity over {key}"
    return Change(Suggestion("remove-pod-anti-affinity", text, key), OWN_WISH + 1, shape=change)


def renamed_resource(resource: str, meant: str) -> Change:
    """The same amount of a resource that is called a little differently."""

    def change(shape: PodShape) -> PodShape:
        book = dict(shape.requests)
        wanted = book.pop(resource, 0)
        if wanted:
            book[meant] = book.get(meant, 0) + wanted
        return replace(shape, requests=tuple(sorted(book.items())))

    text = f"request {meant} instead of {resource}"
    return Change(Suggestion("correct-resource", text, meant), OWN_WISH - 1, shape=change)


def requesting(resource: str, amount: int, shown: str, node: str = "") -> Change:
    """A smaller request, for what one ``node`` has left or for all of a gang."""

    def change(shape: PodShape) -> PodShape:
        book = dict(shape.requests)
        book[resource] = min(book.get(resource, 0), amount)
        return replace(shape, requests=tuple(sorted(book.items())))

    where = f" (free on node {node})" if node else ""
    text = f"request at most {shown} {resource}{where}"
    suggestion = Suggestion("lower-request", text, resource, node, amount)
    return Change(suggestion, SMALLER, shape=change)


# Claims


def requests(spec: ClaimSpec) -> Iterator[tuple[str, Request]]:
    """Every request and alternative with its path."""
    for entry in spec.requests:
        for request in entry.alternatives:
            yield entry.path(request), request


def claim_wishes(spec: ClaimSpec, clauses: Clauses) -> Iterator[tuple[str, Change]]:
    """Each constraint and each selector clause of the claim left out alone, and of what request."""
    for constraint in spec.constraints:
        yield "", _without_constraint(constraint)
    for path, request in requests(spec):
        for expression in request.selectors:
            for clause in clauses(expression or ""):
                yield path, _without_selector_clause(path, expression or "", clause, clauses)


def _without_constraint(constraint: Constraint) -> Change:
    kind = "matchAttribute" if constraint.match else "distinctAttribute"
    about = constraint.match or constraint.distinct

    def change(spec: ClaimSpec) -> ClaimSpec:
        return ClaimSpec(spec.requests, tuple(c for c in spec.constraints if c != constraint))

    text = f"remove the constraint {kind} {about}"
    return Change(Suggestion("remove-constraint", text, about), OWN_CLAIM, spec=change)


def _without_selector_clause(
    path: str, expression: str, clause: Clause, clauses: Clauses
) -> Change:
    parts = clauses(expression)
    what = "selector" if len(parts) == 1 else "selector clause"
    text = f"remove {what} `{clause.text}` of request {path}"
    suggestion = Suggestion("remove-device-selector", text, clause.text)
    return Change(suggestion, OWN_CLAIM, spec=_reselecting(path, clause, "", clauses))


def guarded(path: str, clause: Clause, clauses: Clauses) -> Change:
    """The clause, asked only of devices that have what it reads."""
    text = f"ask `{clause.guard}` before `{clause.text}` in request {path}"
    suggestion = Suggestion("guard-device-selector", text, clause.text)
    new = joined((clause.guard, clause.text))
    return Change(suggestion, OWN_CLAIM - 2, spec=_reselecting(path, clause, new, clauses))


def reworded(path: str, clause: Clause, constant: str, clauses: Clauses) -> Change | None:
    """The clause with another constant; None if the old one does not stand there just once."""
    quoted = f'"{clause.wanted}"' if f'"{clause.wanted}"' in clause.text else clause.wanted
    if clause.text.count(quoted) != 1:
        return None
    new = clause.text.replace(quoted, quoted.replace(clause.wanted, constant))
    text = f"change `{clause.text}` of request {path} to {constant}"
    suggestion = Suggestion("change-device-selector", text, clause.text)
    change = _reselecting(path, clause, new, clauses)
    return Change(suggestion, OWN_CLAIM - 1, spec=change)


def _reselecting(
    path: str, clause: Clause, new: str, clauses: Clauses
) -> Callable[[ClaimSpec], ClaimSpec]:
    """The spec with ``new`` in place of one clause of one selector; "" leaves the clause out.

    A selector may have been changed already: what is left of it is looked at.
    """

    def relaxed(request: Request) -> Request:
        return replace(request, selectors=reselected(request.selectors, clause, new, clauses))

    return lambda spec: with_request(spec, path, relaxed)


def reselected(
    selectors: Sequence[str | None], clause: Clause, new: str, clauses: Clauses
) -> tuple[str | None, ...]:
    """The selectors with ``new`` in place of one clause; "" leaves the clause out."""
    found: list[str | None] = []
    for selector in selectors:
        texts = [c.text for c in clauses(selector or "")]
        if clause.text not in texts:
            found.append(selector)
            continue
        left = [new if text == clause.text else text for text in texts]
        left = [text for text in left if text]
        if left:
            found.append(joined(left))
    return tuple(found)


def joined(clauses: Sequence[str]) -> str:
    """One selector of several clauses."""
    if len(clauses) == 1:
        return clauses[0]
    return " && ".join(f"({c})" if "||" in c or "?" in c else c for c in clauses)


def with_request(spec: ClaimSpec, path: str, change: Callable[[Request], Request]) -> ClaimSpec:
    """The spec with one request, or one alternative of it, changed."""
    return ClaimSpec(
        tuple(
            replace(
                entry,
                alternatives=tuple(
                    change(r) if entry.path(r) == path else r for r in entry.alternatives
                ),
            )
            for entry in spec.requests
        ),
        spec.constraints,
    )


def asking_for(path: str, old: int, count: int) -> Change:
    """A smaller count in one request."""

    def change(spec: ClaimSpec) -> ClaimSpec:
        return with_request(spec, path, lambda r: replace(r, count=min(r.count, count)))

    text = f"ask for {count} instead of {old} in request {path}"
    return Change(Suggestion("lower-count", text, path, amount=count), SMALLER, spec=change)


def counting(path: str, count: int) -> Change:
    """A number of devices instead of all of a node's."""

    def change(spec: ClaimSpec) -> ClaimSpec:
        return with_request(
            spec, path, lambda r: replace(r, mode=EXACT_COUNT, count=count) if r.mode == ALL else r
        )

    noun = "device" if count == 1 else "devices"
    text = f"ask for {count} {noun} instead of all in request {path}"
    return Change(Suggestion("count-devices", text, path, amount=count), OWN_CLAIM, spec=change)


def tolerating_devices(path: str, taint: DeviceTaint) -> Change:
    """A toleration for one taint of devices."""
    extra = Toleration(taint.key, "Equal", taint.value, taint.effect)

    def change(spec: ClaimSpec) -> ClaimSpec:
        return with_request(spec, path, lambda r: replace(r, tolerations=(*r.tolerations, extra)))

    text = f"tolerate device taint {taint} in request {path}"
    return Change(Suggestion("tolerate-device-taint", text, str(taint)), OWN_CLAIM, spec=change)


def taking_less(path: str, name: str, amount: int, shown: str) -> Change:
    """A smaller share of one capacity."""

    def change(spec: ClaimSpec) -> ClaimSpec:
        def less(request: Request) -> Request:
            book = dict(request.capacity or ())
            book[name] = amount
            return replace(request, capacity=tuple(sorted(book.items())))

        return with_request(spec, path, less)

    text = f"ask for {shown} of capacity {name} in request {path}"
    suggestion = Suggestion("lower-capacity", text, name, amount=amount)
    return Change(suggestion, SMALLER, spec=change)


def without_capacity(path: str, name: str) -> Change:
    """No such capacity: devices that have none of that name cannot say how much it takes."""

    def change(spec: ClaimSpec) -> ClaimSpec:
        return with_request(spec, path, lambda r: replace(r, capacity=_but(r, name) or None))

    text = f"remove capacity {name} from request {path}"
    return Change(Suggestion("remove-capacity", text, name), OWN_CLAIM, spec=change)


def renamed_capacity(path: str, name: str, meant: str) -> Change:
    """The same amount of a capacity that is called a little differently."""

    def renamed(request: Request) -> Request:
        book = dict(request.capacity or ())
        if name in book:
            book[meant] = book.pop(name)
        return replace(request, capacity=tuple(sorted(book.items())))

    text = f"ask for capacity {meant} instead of {name} in request {path}"
    suggestion = Suggestion("correct-capacity", text, meant)
    return Change(suggestion, OWN_CLAIM - 1, spec=lambda spec: with_request(spec, path, renamed))


def _but(request: Request, name: str) -> tuple[tuple[str, Amount], ...]:
    return tuple(entry for entry in request.capacity or () if entry[0] != name)


def countable(spec: ClaimSpec) -> Iterator[tuple[str, Request]]:
    """Requests for a number of devices."""
    for path, request in requests(spec):
        if request.mode != ALL:
            yield path, request
