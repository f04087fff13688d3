"""OpenAPI documents of a catalog: what ``kubectl explain`` and client-side validation read."""

from kubarium.api.openapi.documents import OpenApi
from kubarium.api.openapi.protobuf import ACCEPTED as PROTOBUF_ACCEPTED
from kubarium.api.openapi.protobuf import CONTENT_TYPE as PROTOBUF_CONTENT_TYPE

__all__ = ["PROTOBUF_ACCEPTED", "PROTOBUF_CONTENT_TYPE", "OpenApi"]
