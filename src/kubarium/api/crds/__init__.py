"""CustomResourceDefinitions: structural schemas, pruning, defaults, values, the bundled ones.

``kinds_of`` and ``bundled`` are what others need; definitions are checked by ``api.validation``
like every other kind (``crds.check``)."""

from kubarium.api.crds.definition import bundled, established_status, kinds_of

__all__ = ["bundled", "established_status", "kinds_of"]
