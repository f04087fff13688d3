"""matchLabelKeys: a selector that the server has filled in selects what the scheduler reads."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.api.resource import copy_document
from kubarium.server.strategies.pods import with_label_keys
from kubarium.view.pods import PodReader

REQUIRED, PREFERRED = (
    f"{w}DuringSchedulingIgnoredDuringExecution" for w in ("required", "preferred")
)
KEYS, VALUES = st.sampled_from(["a", "b", "c"]), st.sampled_from(["", "1", "2"])
labels = st.dictionaries(KEYS, VALUES)
clauses = st.one_of(
    st.builds(
        lambda key, operator, value: {"key": key, "operator": operator, "values": [value]},
        KEYS,
        st.sampled_from(["In", "NotIn"]),
        VALUES,
    ),
    st.builds(lambda key: {"key": key, "operator": "Exists"}, KEYS),
)
selectors = st.none() | st.fixed_dictionaries(
    {}, optional={"matchLabels": labels, "matchExpressions": st.lists(clauses, max_size=2)}
)


@st.composite
def terms(draw, **fields):
    keys = st.lists(KEYS, unique=True, max_size=2)
    term = {"topologyKey": "zone", "matchLabelKeys": draw(keys), **fields}
    if not fields:
        term["mismatchLabelKeys"] = draw(keys)
    selector = draw(selectors)
    return term if selector is None else {**term, "labelSelector": selector}


@settings(deadline=None)
@given(terms(), terms(), terms(maxSkew=1, whenUnsatisfiable="DoNotSchedule"), labels, labels)
def test_a_selector_with_its_label_keys_selects_the_same_pods(near, away, spread, own, others):
    spec = {
        "containers": [{"name": "c", "image": "x"}],
        "affinity": {
            "podAffinity": {REQUIRED: [near]},
            "podAntiAffinity": {PREFERRED: [{"weight": 1, "podAffinityTerm": away}]},
        },
        "topologySpreadConstraints": [spread],
    }
    sent = copy_document(spec)
    stored = with_label_keys(spec, own)
    assert spec == sent
    metadata = {"name": "p", "namespace": "ns", "labels": own}
    first, second = (
        PodReader().shape({"metadata": metadata, "spec": one}) for one in (spec, stored)
    )
    for one in (own, others):
        assert chosen(first, one) == chosen(second, one)


def chosen(shape, labels):
    found = (
        shape.pod_affinity[0].selector,
        shape.pod_preferred[0].term.selector,
        shape.spread[0].selector,
    )
    return [selector is not None and selector.matches(labels) for selector in found]
