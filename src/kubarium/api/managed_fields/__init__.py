"""Who owns which field: server-side apply, and the tracking of all other writes.

Source: apimachinery ``pkg/util/managedfields`` on structured-merge-diff ``merge/update.go``.
"""

from kubarium.api.managed_fields.ownership import MAX_UPDATE_MANAGERS, apply, track_update

__all__ = ["MAX_UPDATE_MANAGERS", "apply", "track_update"]
