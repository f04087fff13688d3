"""Progress of training, as the programs of TrainJobs report it.

Source: Trainer ``pkg/statusserver`` (feature TrainJobStatus), there a server of its own. Here the
API server takes the reports at the same path: POST to a TrainJob's ``status`` is no verb of the
API, and the token is good for this one TrainJob's status and for nothing else.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from kubarium.api.kinds import TRAIN_JOBS
from kubarium.api.resource import Document
from kubarium.api.trainer.names import status_audience
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError
from kubarium.server.api_server import ApiServer
from kubarium.server.authn import Authenticator, Headers, User, split_service_account
from kubarium.server.handlers import Answer
from kubarium.server.patching import APPLY_PATCH, Patch
from kubarium.server.requests import Call
from kubarium.server.wire import RequestInfo

MAX_BODY_BYTES = 1 << 16
FIELD_MANAGER = "trainer-status"
_NUMBERS = ("progressPercentage", "estimatedRemainingSeconds")


class ProgressReports:
    """Answers ``POST …/trainjobs/NAME/status``."""

    def __init__(self, server: ApiServer, authenticator: Authenticator) -> None:
        self._server = server
        self._authenticator = authenticator

    def takes(self, info: RequestInfo) -> bool:
        """Whether a request is a report of progress."""
        where = (info.group, info.version, info.resource, info.subresource)
        wanted = (TRAIN_JOBS.group, TRAIN_JOBS.version, TRAIN_JOBS.plural, "status")
        return info.verb == "create" and where == wanted

    def answer(self, info: RequestInfo, headers: Headers, body: bytes) -> Answer:
        """The report back, once it is in the TrainJob's status; ApiError 403, 404, 413 or 422."""
        user = self._authorize(info, headers)
        report = _decode(body)
        if report is not None:
            self._store(info, user, report)
        sent = {"trainerStatus": report} if report is not None else {}
        return Answer(200, orjson.dumps(sent))

    def _authorize(self, info: RequestInfo, headers: Headers) -> User:
        audience = status_audience(info.namespace, info.name)
        user = self._authenticator.holder(headers, audience)
        account = split_service_account(user.name) if user else None
        if user is None or account is None or account[0] != info.namespace:
            raise ApiError(403, "Forbidden", "Forbidden")
        return user

    def _store(self, info: RequestInfo, user: User, report: Document) -> None:
        kind = self._server.registry.kind_of(info.group, info.version, info.resource)
        if self._server.registry.find(kind, info.namespace, info.name) is None:
            raise ApiError(404, "NotFound", "Train job not found")
        document = {
            "apiVersion": TRAIN_JOBS.api_version,
            "kind": TRAIN_JOBS.kind,
            "metadata": {"name": info.name, "namespace": info.namespace},
            "status": {"trainerStatus": report},
        }
        call = Call(user, FIELD_MANAGER, force=True)
        patch = Patch(APPLY_PATCH, document)
        self._server.patch(kind, info.name, patch, info.namespace, call, "status")


def _decode(body: bytes) -> Document | None:
    """The report; None if there is none in the body. ApiError 413 or 422."""
    if len(body) > MAX_BODY_BYTES:
        raise ApiError(413, "RequestEntityTooLarge", "Payload too large")
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _invalid(str(error)) from None
    if not isinstance(document, dict):
        raise _invalid("an object is wanted")
    status = document.get("trainerStatus")
    if status is None:
        return None
    if not isinstance(status, dict):
        raise _invalid("trainerStatus must be an object")
    report: Document = {key: status[key] for key in _NUMBERS if status.get(key) is not None}
    if status.get("metrics"):
        report["metrics"] = _metrics(status["metrics"])
    if status.get("lastUpdatedTime") is not None:
        report["lastUpdatedTime"] = _time(status["lastUpdatedTime"])
    return report


def _metrics(given: Any) -> list[Document]:
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise _invalid("trainerStatus.metrics must be a list of objects with name and value")
    return [{key: entry[key] for key in ("name", "value") if key in entry} for entry in given]


def _time(given: Any) -> str:
    """Whole seconds in UTC, as all times of the API."""
    try:
        time = datetime.fromisoformat(given)
    except (ValueError, TypeError):
        time = None
    if time is None or time.tzinfo is None:
        raise _invalid(f"trainerStatus.lastUpdatedTime: not a time of RFC 3339: {given!r}")
    return rfc3339(time.timestamp())


def _invalid(why: str) -> ApiError:
    return ApiError(422, "Invalid", f"Invalid payload: {why}")
