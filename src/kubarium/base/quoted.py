"""Values in messages: as they were written, and short."""

from __future__ import annotations

MOST_CHARACTERS = 80


def quoted(value: object) -> str:
    """The value as Python writes it, cut where it is longer than anybody reads.

    >>> quoted("a")
    "'a'"
    """
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out numbers of thousands of digits
        return "a number far too large"
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
