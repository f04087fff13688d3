"""Custom resources: their schema, their CEL rules, and ratcheting of what was already there."""

from __future__ import annotations

from functools import lru_cache

from kubarium.api.catalog import Kind
from kubarium.api.cel.rules import Rules, compile_rules
from kubarium.api.crds.values import check_value
from kubarium.api.resource import Document
from kubarium.api.schema import Schema
from kubarium.base.errors import FieldError

_CACHED_KINDS = 512


@lru_cache(maxsize=_CACHED_KINDS)
def rules_of(schema: Schema) -> Rules:
    """The compiled rules of a kind's schema."""
    return compile_rules(schema)


def check_custom(kind: Kind, new: Document, old: Document | None = None) -> list[FieldError]:
    """Schema errors, or else what the rules say.

    On update an error about a value that was there before and is the same is forgiven
    (CRDValidationRatcheting). Rules run only on documents of the right shape.
    """
    errors = check_value(kind.schema, _without_metadata(new))
    if old is not None and errors:
        known = {str(error) for error in check_value(kind.schema, _without_metadata(old))}
        errors = [error for error in errors if str(error) not in known]
    if errors:
        return errors
    rules = rules_of(kind.schema)
    return rules.evaluate(new, old) if rules.root else []


def _without_metadata(document: Document) -> Document:
    return {key: value for key, value in document.items() if key != "metadata"}
