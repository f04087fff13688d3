"""The patch types of the API: JSON patch, merge patch and strategic merge patch.

All functions are pure: the inputs stay as they are, and the result is a new document that shares
the parts that did not change with them (copy it before changing it in place).
"""

from kubarium.api.patch.json_patch import MAX_OPERATIONS, json_patch
from kubarium.api.patch.merge import merge_patch
from kubarium.api.patch.strategic import strategic_merge_patch, unsupported_for_custom_resources

__all__ = [
    "MAX_OPERATIONS",
    "json_patch",
    "merge_patch",
    "strategic_merge_patch",
    "unsupported_for_custom_resources",
]
