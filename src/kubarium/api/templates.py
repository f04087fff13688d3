"""Specs that are equal: what has been worked out about one holds for all.

Pods and claims are made by the thousand from one template, so their specs come again and again.
Each step of a write that depends on nothing but the spec (do its types conform, is it valid, whose
are its fields) remembers its answer by the spec's content. Encoding a spec to find it again takes
some three microseconds; the steps themselves take ten to sixty each.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

import orjson

from kubarium.api.catalog import Kind
from kubarium.api.resource import Document, Resource
from kubarium.api.schema import DEFINITION_PREFIX

T = TypeVar("T")

# Different specs remembered by one step. When they are more, it starts anew: a cluster whose specs
# all differ pays for encoding them, and holds some megabytes at most.
REMEMBERED = 512

_FROM_TEMPLATES = frozenset({("", "pods"), ("resource.k8s.io", "resourceclaims")})
# The same by their schemas' names.
TEMPLATED_DEFINITIONS = frozenset(
    DEFINITION_PREFIX + name
    for name in (
        "api.core.v1.Pod",
        "api.resource.v1.ResourceClaim",
        "api.resource.v1beta1.ResourceClaim",
        "api.resource.v1beta2.ResourceClaim",
    )
)


def is_from_template(resource: Resource) -> bool:
    """Whether objects of this kind are made in numbers from one template."""
    return (resource.group, resource.plural) in _FROM_TEMPLATES


def content_of(value: object) -> bytes | None:
    """The encoded value; None if it is not JSON (a client in this process may send anything)."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return None


def spec_content(kind: Kind, document: Document) -> bytes | None:
    """What to find a document's spec by; None if its kind or its spec is not one to remember."""
    if not is_from_template(kind.resource):
        return None
    spec = document.get("spec")
    if type(spec) is not dict:
        return None
    content = content_of(spec)
    # A version may differ in how it reads the same spec.
    return None if content is None else kind.resource.api_version.encode() + b" " + content


class Remembered(Generic[T]):
    """Answers of one pure step by what they depend on, at most ``REMEMBERED`` of them.

    That is a spec's encoded content for the most part; None is never remembered.
    """

    __slots__ = ("_answers",)

    def __init__(self) -> None:
        self._answers: dict[Hashable, T] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, content: Hashable) -> T | None:
        """What was found out before."""
        return None if content is None else self._answers.get(content)

    def put(self, content: Hashable, answer: T) -> None:
        """Remember an answer; nothing without content."""
        if content is None:
            return
        if len(self._answers) >= REMEMBERED:
            self._answers.clear()
        self._answers[content] = answer
