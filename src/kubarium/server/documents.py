"""What ``api`` knows about documents, in the order in which a write needs it."""

from __future__ import annotations

import base64

from kubarium.api.catalog import Kind
from kubarium.api.decode import conform, strict_complaints, strict_decoding_error
from kubarium.api.defaulting import default
from kubarium.api.kinds import SECRETS
from kubarium.api.managed_fields import track_update
from kubarium.api.resource import Document, copy_document
from kubarium.api.templates import Remembered, spec_content
from kubarium.api.validation import validate_create, validate_status_update, validate_update
from kubarium.base.errors import ApiError, FieldError, invalid
from kubarium.server.registry import Registry
from kubarium.server.requests import Call

STRICT = "Strict"
WARN = "Warn"
IGNORE = "Ignore"


def take_in(kind: Kind, document: Document, duplicates: list[str], call: Call) -> None:
    """Make a fresh document one of ``kind``, in place: types, unknown and duplicate fields.

    What ``fieldValidation`` says decides whether unknown fields are an error, a warning or
    nothing; they are dropped in any case. ApiError 400.
    """
    unknown = conform(kind, document)
    if kind.resource == SECRETS:
        fold_texts(document)
    if not unknown and not duplicates:
        return
    if call.field_validation == STRICT:
        raise strict_decoding_error(kind, unknown, duplicates)
    if call.field_validation != IGNORE:
        for complaint in strict_complaints(unknown, duplicates):
            call.warn(complaint)


def fold_texts(secret: Document) -> None:
    """Move a Secret's write-only ``stringData`` into ``data``, over what stands there."""
    texts = secret.pop("stringData", None)
    if texts:
        data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
        secret["data"] = {**(secret.get("data") or {}), **data}


def _invalid(kind: Kind, document: Document, errors: list[FieldError]) -> ApiError:
    # Events of either group are refused as core's.
    return invalid(kind.resource.kind, kind.storage.group, document["metadata"]["name"], errors)


class Documents:
    """Defaulting, validation and ownership of fields, over one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._valid_specs: Remembered[Document] = Remembered()

    def default(self, kind: Kind, document: Document) -> None:
        """Fill in defaults, in place; ``document`` is fresh except for what has them already."""
        default(kind, document)

    def validate_new(self, kind: Kind, document: Document) -> None:
        """ApiError 422 with every complaint.

        A spec equal to one that has passed becomes that one: documents are read-only once stored,
        and pods of one template then share it.
        """
        content = spec_content(kind, document)
        known = self._valid_specs.get(content)
        errors = validate_create(kind, document, spec_is_valid=known is not None)
        if errors:
            raise _invalid(kind, document, errors)
        if known is not None:
            document["spec"] = known
        elif content is not None:
            self._valid_specs.put(content, document["spec"])

    def validate_change(self, kind: Kind, new: Document, old: Document, subresource: str) -> None:
        """ApiError 422 with every complaint, changes of immutable fields among them.

        Subresources that own another part than the status have checked that part themselves.
        """
        check = validate_status_update if subresource else validate_update
        errors = check(kind, new, old)
        if errors:
            raise _invalid(kind, new, errors)

    def track(
        self, kind: Kind, old: Document | None, new: Document, call: Call, subresource: str
    ) -> Document:
        """``new`` with ``metadata.managedFields`` brought up to date."""
        return track_update(
            old,
            new,
            manager=call.manager,
            schema=kind.schema,
            now=self._registry.clock.now(),
            subresource=subresource,
        )

    def take_in_changes(self, kind: Kind, document: Document, old: Document, call: Call) -> None:
        """Copy the top-level parts that differ from ``old`` and make them conform.

        ``document`` has a top level of its own. Parts that are equal conform already; they become
        those of ``old``, so that versions of an object share memory. ApiError 400.
        """
        changed: Document = {}
        kept: Document = {}  # members of metadata that are as they were
        for key, value in list(document.items()):
            before = old.get(key)
            if value is None:  # null is absent, whether there was something before or not
                del document[key]
            elif value is before or value == before:
                document[key] = before
            elif key == "metadata" and isinstance(value, dict) and isinstance(before, dict):
                kept = {k: before[k] for k, v in value.items() if k in before and v == before[k]}
                changed[key] = {k: copy_document(v) for k, v in value.items() if k not in kept}
            else:
                changed[key] = copy_document(value)
        if not changed:
            return
        names = dict.fromkeys(changed)
        if "stringData" in changed:  # is folded into data, which may not have changed itself
            names["data"] = None
            if "data" in document:
                changed.setdefault("data", dict(document["data"]))
        take_in(kind, changed, [], call)
        if kept:
            both = kept | changed["metadata"]
            changed["metadata"] = {k: both[k] for k in document["metadata"] if k in both}
        for name in names:
            if name in changed:
                document[name] = changed[name]
            else:
                document.pop(name, None)
