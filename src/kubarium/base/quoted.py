"""Values in messages: as they were written, and short."""

from __future__ import annotations

from collections.abc import Sequence

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


def listed(names: Sequence[str], most: int) -> str:
    """The first names, and how many there are besides.

    >>> listed(["a", "b"], 2), listed(["a", "b", "c", "d"], 2)
    ('a, b', 'a, b and 2 more')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
