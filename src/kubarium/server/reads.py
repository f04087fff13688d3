"""get and list: revisions, pages and selectors (upstream: apiserver ``registry/generic``).

A continue token is the base64 of ``{"v": "meta.k8s.io/v1", "rv": <revision>, "start": <key>}``, as
etcd3's storage makes it; ``rv`` -1 marks the token of an inconsistent continuation, which a
client is given with the 410 for a compacted one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from kubarium.api.catalog import Kind
from kubarium.api.resource import Document, ListResult
from kubarium.api.selectors import parse_fields, parse_labels
from kubarium.base.errors import ApiError, FieldError, bad_request, invalid
from kubarium.server.registry import Registry
from kubarium.server.requests import ListOptions
from kubarium.store.log import CONTINUE_TOO_OLD, Record, too_large

TOKEN_VERSION = "meta.k8s.io/v1"
_INCONSISTENT = -1

Matcher = Callable[[Document], bool]


@dataclass(frozen=True, slots=True)
class ContinueToken:
    """Where a list goes on: the revision it is of, and the key suffix of the next object."""

    revision: int
    start: str

    def encode(self) -> str:
        """The opaque text."""
        body = {"v": TOKEN_VERSION, "rv": self.revision, "start": self.start}
        return base64.urlsafe_b64encode(orjson.dumps(body)).rstrip(b"=").decode()

    @staticmethod
    def decode(text: str) -> ContinueToken:
        """The token of ``text``; ApiError 400 if it is none of ours."""
        try:
            body = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            version, revision, start = body["v"], body["rv"], body["start"]
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise bad_request(f"continue key is not valid: {text!r}") from error
        if version != TOKEN_VERSION:
            raise bad_request(f"continue key is not valid: unrecognized version {version!r}")
        if not isinstance(revision, int) or not isinstance(start, str) or not start:
            raise bad_request("continue key is not valid: encoded start key or version is wrong")
        if "/../" in f"/{start}" or revision == 0 or revision < _INCONSISTENT:
            raise bad_request("continue key is not valid: encoded start key or version is wrong")
        return ContinueToken(revision, start)


def parse_revision(text: str) -> int:
    """A resourceVersion as a number, "" as 0; ApiError 400 otherwise."""
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal()) or len(text) > 20:
        raise bad_request(f"invalid resource version {text!r}: must be an unsigned integer")
    return int(text)


def selector_of(kind: Kind, label_selector: str, field_selector: str) -> Matcher | None:
    """One predicate of both selectors, None if all objects match; ApiError 400 on bad text."""
    labels = parse_labels(label_selector) if label_selector else None
    fields = parse_fields(field_selector, kind) if field_selector else None
    if labels is None and fields is None:
        return None
    if fields is None and labels is not None:
        by_label = labels.matches
        return lambda document: by_label(document["metadata"].get("labels") or {})
    if labels is None and fields is not None:
        return fields.matches
    assert labels is not None
    assert fields is not None
    by_label, by_field = labels.matches, fields.matches
    return lambda document: (
        by_label(document["metadata"].get("labels") or {}) and by_field(document)
    )


class Reads:
    """The reading verbs over one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def get(self, kind: Kind, namespace: str, name: str, resource_version: str = "") -> Document:
        """The newest state; ``resource_version`` may only ask for what has happened already."""
        registry = self._registry
        wanted = parse_revision(resource_version)
        if wanted > registry.store.revision:
            raise too_large(wanted, registry.store.revision)
        return registry.present(kind, registry.fetch(kind, namespace, name).value)

    def list(self, kind: Kind, namespace: str, options: ListOptions) -> ListResult:
        """One page. ``namespace`` "" lists all. ApiError 400, 410 (Expired), 422 or 504."""
        check_list_options(options)
        matches = selector_of(kind, options.label_selector, options.field_selector)
        prefix = self._registry.prefix(kind, namespace)
        revision, start = self._position(prefix, options)
        limit = 0 if options.resource_version == "0" else options.limit
        return self._pages(kind, prefix, start, limit, revision, matches)

    def _position(self, prefix: str, options: ListOptions) -> tuple[int, str]:
        """(revision to list at, 0 for now; key to start at)."""
        store = self._registry.store
        if options.continue_token:
            token = ContinueToken.decode(options.continue_token)
            if token.revision == _INCONSISTENT:
                return 0, prefix + token.start
            if token.revision < store.compacted:
                raise self._continue_too_old(token)
            return token.revision, prefix + token.start
        wanted = parse_revision(options.resource_version)
        if wanted > store.revision:
            raise too_large(wanted, store.revision)
        exact = options.resource_version_match == "Exact"
        # Upstream serves limit with an exact revision only if asked: NotOlderThan is the default.
        return (wanted if exact else 0), ""

    def _continue_too_old(self, token: ContinueToken) -> ApiError:
        fresh = ContinueToken(_INCONSISTENT, token.start).encode()
        return ApiError(410, "Expired", CONTINUE_TOO_OLD, {}, {"continue": fresh})

    def _pages(
        self,
        kind: Kind,
        prefix: str,
        start: str,
        limit: int,
        revision: int,
        matches: Matcher | None,
    ) -> ListResult:
        """Ranges until ``limit`` objects match; one range if there is no selector."""
        registry, items = self._registry, list[Document]()
        present = registry.present
        while True:
            page = registry.store.range(prefix, start=start, limit=limit, revision=revision)
            revision = page.revision
            last: Record | None = None
            for record in page.records:
                document = present(kind, record.value)
                if matches is None or matches(document):
                    items.append(document)
                last = record
                if limit and len(items) == limit:
                    break
            full = bool(limit) and len(items) == limit
            at_end = last is None or last is page.records[-1]
            if not page.more and (at_end or not full):
                return ListResult(items, str(revision))
            assert last is not None
            start = last.key + "\0"
            if full:
                token = ContinueToken(revision, start.removeprefix(prefix)).encode()
                remaining = page.count - len(page.records) if matches is None else None
                return ListResult(items, str(revision), token, remaining)


def check_list_options(options: ListOptions) -> None:
    """The combinations that upstream refuses (``metainternalversion/validation``); ApiError 422."""
    errors: list[FieldError] = []
    match, version = options.resource_version_match, options.resource_version
    if options.limit < 0:
        raise bad_request(f"limit must not be negative, found {options.limit}")
    if match:
        if options.continue_token:
            detail = "resourceVersionMatch is forbidden with continue"
            errors.append(FieldError("Forbidden", "resourceVersionMatch", detail=detail))
        elif not version:
            detail = "resourceVersionMatch is forbidden unless resourceVersion is provided"
            errors.append(FieldError("Forbidden", "resourceVersionMatch", detail=detail))
        elif match not in ("Exact", "NotOlderThan"):
            detail = 'supported values: "Exact", "NotOlderThan", ""'
            errors.append(FieldError("NotSupported", "resourceVersionMatch", match, detail))
        elif match == "Exact" and version == "0":
            detail = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
            errors.append(FieldError("Forbidden", "resourceVersionMatch", detail=detail))
    if errors:
        raise invalid("ListOptions", "meta.k8s.io", "", errors)
    if options.continue_token and version not in ("", "0"):
        raise bad_request("specifying resource version is not allowed when using continue")
