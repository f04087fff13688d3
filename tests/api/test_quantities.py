"""Quantities keep their value on the way through the API and take one canonical form."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.catalog import Catalog
from kubarium.api.decode import conform
from kubarium.base.quantity import QuantityError, canonical, format_quantity, parse_quantity

SUFFIXES = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
PODS = Catalog.builtin().lookup("", "v1", "pods")
texts = st.builds(
    lambda whole, part, suffix: f"{whole}{part}{suffix}",
    st.integers(-(10**6), 10**6),
    st.sampled_from(["", ".5", ".25", "."]),
    st.sampled_from([*SUFFIXES, "e3", "E2", "e-3"]),
)


@given(texts)
def test_the_canonical_form_has_the_same_value_and_stays(text):
    form = canonical(text)
    assert parse_quantity(form) == parse_quantity(text)
    assert canonical(form) == form


@given(
    st.fractions(-(10**9), 10**9, max_denominator=10**9).filter(
        lambda f: 10**9 % f.denominator == 0
    )
)
def test_printing_and_parsing_is_the_identity(value: Fraction):
    assert parse_quantity(format_quantity(value)) == value
    assert parse_quantity(format_quantity(value, binary=True)) == value


@given(texts)
def test_documents_hold_canonical_quantities(text):
    document = {"spec": {"overhead": {"cpu": text}}}
    assert conform(PODS, document) == []
    assert document["spec"]["overhead"]["cpu"] == canonical(text)


@given(st.text(max_size=8))
def test_other_texts_are_refused_by_name(text):
    if re.fullmatch(r"[-+.0-9a-zA-Z]+", text):
        return
    with pytest.raises(QuantityError, match="is not a quantity"):
        parse_quantity(text)
