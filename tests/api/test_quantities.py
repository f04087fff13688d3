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


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("1000m", "1"),
        ("1.125", "1.125"),  # in thousandths already
        ("1.250", "1.250"),
        ("1.5", "1500m"),
        ("0.125", "125m"),
        ("2278.001M", "2278.001M"),
        ("1000.000", "1k"),
        ("5000", "5k"),
        ("5001", "5001"),
        ("+5", "+5"),
        ("+8Ki", "8Ki"),
        ("+5Ki", "+5Ki"),
        ("007", "007"),
        ("1024Mi", "1Gi"),
        ("12Mi", "12Mi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Ki", "512"),
        ("0.3Ki", "307200m"),
        ("12e6", "12e6"),
        ("1e-5", "10e-6"),
        ("1023e-1", "102300e-3"),
        ("2e+6", "2e+6"),
        ("-066547Mi", "-066547Mi"),
        ("0Gi", "0"),
        ("-0.0", "0"),
        ("83.1E-9", "84e-9"),
    ],
)
def test_what_is_in_thousands_already_keeps_its_form(text, form):
    """As apimachinery stores them, which was tried."""
    assert canonical(text) == form


@pytest.mark.parametrize("text", ["999Ei", "8Ei", "1343.5Ei", "55965Pi"])
def test_a_binary_suffix_says_no_more_than_64_bits_hold(text):
    assert parse_quantity(text) == 2**63 - 1
    assert parse_quantity(f"-{text}") == 1 - 2**63
    assert canonical(text) == str(2**63 - 1)


@pytest.mark.parametrize("text", ["+", "-", ".", "Gi", "m", "E", "-.k", "0e99", ".n"])
def test_a_number_without_digits_is_nothing(text):
    assert (parse_quantity(text), canonical(text)) == (0, "0")


@pytest.mark.parametrize(
    "text", ["", "e", "e+", "1e", "1K", "1ki", "1m-3", "1Ee3", "--1", "1 ", "1.2.3"]
)
def test_what_is_no_quantity(text):
    with pytest.raises(QuantityError, match="is not a quantity"):
        canonical(text)
