"""Nobody grants what they do not have: the guard on roles and bindings.

Upstream does this in the storage of the rbac group (``policybased``), after validation.
"""

from __future__ import annotations

from kubarium.server.admission.chain import Attempt, Function
from kubarium.server.authz import Authorizer


def escalation_guards(authorizer: Authorizer) -> tuple[Function, Function]:
    """The guards of roles and of bindings; ApiError 403 or 404."""

    def guard_role(attempt: Attempt) -> None:
        authorizer.confirm_role_write(attempt.call.user, attempt.document, attempt.old)

    def guard_binding(attempt: Attempt) -> None:
        authorizer.confirm_binding_write(attempt.call.user, attempt.document, attempt.old)

    return guard_role, guard_binding
