"""Kubernetes quantities: exact arithmetic on decimal numbers with SI, binary or exponent suffixes.

Source of the format: apimachinery ``pkg/api/resource/quantity.go``.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

_FORMAT = re.compile(
    r"(?P<sign>[+-]?)0*(?P<whole>[0-9]*)(?:\.(?P<part>[0-9]*))?"
    r"(?P<suffix>[numkMGTPE]?|[KMGTPE]i|[eE][+-]?[0-9]+)"
)

_DECIMAL = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
}
_BINARY = {s: Fraction(1024**i) for i, s in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}
_NANO = Fraction(1, 10**9)
# The most that a quantity with a binary suffix says, however much is written.
_MOST = Fraction(2**63 - 1)
_EXPONENTS = {s: 3 * i for i, s in enumerate(_DECIMAL, -3)}
_BINARY_POWERS = {s: i for i, s in enumerate(_BINARY, 1)}
# Digits that surely fit into 64 bits: as many as upstream tries its short cut with.
_DIGITS, _BINARY_DIGITS = 18, 14
# Python reads no integers of more than 4300 digits; nobody writes a quantity a tenth as long.
MAX_LENGTH = 1000
_SHOWN = 60


class QuantityError(ValueError):
    """The text is not a Kubernetes quantity."""

    def __init__(self, text: object) -> None:
        shown = repr(text)
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]}… ({len(shown)} characters)"
        super().__init__(
            f"{shown} is not a quantity; quantities look like 500m, 1, 1.5, 64Mi, 2Gi, 1e3"
        )


@lru_cache(maxsize=8192)
def _parse(text: str) -> Fraction:
    match = _FORMAT.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None or not text:
        raise QuantityError(text)
    whole, part, suffix = match["whole"], match["part"] or "", match["suffix"]
    value = Fraction(int(f"{whole}{part}" or "0"), 10 ** len(part))
    if suffix in _DECIMAL:
        value *= _DECIMAL[suffix]
    elif suffix in _BINARY:
        value = min(value * _BINARY[suffix], _MOST)
    else:
        exponent = int(suffix[1:])
        if abs(exponent) > 100:
            raise QuantityError(text)
        value *= Fraction(10) ** exponent
    if value % _NANO:  # finer than nano rounds away from zero
        value = _NANO * -((-value) // _NANO)
    return -value if match["sign"] == "-" else value


def parse_quantity(text: object) -> Fraction:
    """The exact value of a quantity given as text, int or float.

    Raises :class:`QuantityError` naming the text.

    >>> parse_quantity("500m"), parse_quantity("1Ki"), parse_quantity(2)
    (Fraction(1, 2), Fraction(1024, 1), Fraction(2, 1))
    """
    if isinstance(text, str):
        return _parse(text)
    if isinstance(text, int) and not isinstance(text, bool):
        return Fraction(text)
    if isinstance(text, float):
        return _parse(repr(text))
    raise QuantityError(text)


def milli(text: object) -> int:
    """Thousandths, rounded up: how CPU is counted.

    >>> milli("250m"), milli("2")
    (250, 2000)
    """
    value = parse_quantity(text) * 1000
    return -((-value.numerator) // value.denominator)


def whole(text: object) -> int:
    """Units, rounded up: how bytes and devices are counted.

    >>> whole("1Gi"), whole("1500m")
    (1073741824, 2)
    """
    value = parse_quantity(text)
    return -((-value.numerator) // value.denominator)


def format_quantity(value: Fraction | int, binary: bool = False) -> str:
    """The canonical text of a value: the largest suffix that keeps it an integer.

    >>> format_quantity(Fraction(1, 2)), format_quantity(2048, binary=True), format_quantity(1000)
    ('500m', '2Ki', '1k')
    """
    value = Fraction(value)
    if value == 0:
        return "0"
    if binary and value.denominator == 1 and abs(value) >= 1024:
        for suffix, unit in reversed(_BINARY.items()):
            if not value % unit:
                return f"{value // unit}{suffix}"
        return str(value.numerator)
    for suffix in ("E", "P", "T", "G", "M", "k", "", "m", "u", "n"):
        if not value % _DECIMAL[suffix]:
            return f"{value // _DECIMAL[suffix]}{suffix}"
    raise QuantityError(value)


def canonical(text: object) -> str:
    """A quantity as the API server would store it ("1000m" becomes "1", "1024Mi" becomes "1Gi").

    What is written in thousands already stays as it is ("1.250", "+5"). Source: ParseQuantity and
    CanonicalizeBytes.

    >>> canonical("1000m"), canonical("1024Mi"), canonical("0.5"), canonical("1.250")
    ('1', '1Gi', '500m', '1.250')
    """
    value = parse_quantity(text)
    if not isinstance(text, str):
        return canonical(repr(text)) if isinstance(text, float) else format_quantity(value)
    if not value:
        return "0"
    match = _FORMAT.fullmatch(text)
    assert match is not None
    whole, part, suffix = match["whole"] or "0", match["part"] or "", match["suffix"]
    binary = suffix in _BINARY
    if binary:
        kept = _is_kept_binary(whole, part, suffix)
    else:
        kept = _is_kept_decimal(whole, part, suffix)
    if kept:
        return text
    if binary or suffix in _DECIMAL:
        return format_quantity(value, binary)
    return _with_exponent(value)


def _is_kept_decimal(whole: str, part: str, suffix: str) -> bool:
    """Whether a number's text is one that upstream does not write anew."""
    digits = f"{whole}{part}"
    scale = _EXPONENTS[suffix] if suffix in _DECIMAL else int(suffix[1:])
    scale -= len(part)
    if len(digits) > _DIGITS or scale < _EXPONENTS["n"]:
        return False
    return scale % 3 == 0 and not digits.endswith("000") and digits[0] != "0"


def _is_kept_binary(whole: str, part: str, suffix: str) -> bool:
    if part or len(whole) + 3 * _BINARY_POWERS[suffix] > _BINARY_DIGITS:
        return False
    return int(whole) % 8 != 0


def _with_exponent(value: Fraction) -> str:
    """In thousands, with the exponent written out: 12e6, 1500e-3."""
    exponent = 0
    while value.denominator != 1:
        value, exponent = value * 1000, exponent - 3
    while value.numerator % 1000 == 0:
        value, exponent = value / 1000, exponent + 3
    return f"{value}e{exponent}" if exponent else str(value)
