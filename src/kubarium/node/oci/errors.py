"""What can be wrong with an image, by kubelet's reasons."""

from __future__ import annotations

from kubarium.base.errors import KubariumError

ERR_PULL, NEVER_PULL, INVALID_NAME = "ErrImagePull", "ErrImageNeverPull", "InvalidImageName"


class ImageProblem(KubariumError):
    """An image that cannot be had or that is broken; the message names image, part and reason."""


class PullProblem(KubariumError):
    """A container's image is not to be had: a waiting reason of kubelet's, and a message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
