"""The credentials that a kubeconfig names, as an HTTP client that has them.

The only module that imports lightkube (TLS, tokens, and commands that give tokens).
"""

from __future__ import annotations

import httpx2
import msgspec
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.kubeconfig import KubeConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError as LightkubeConfigError

from kubarium.api.resource import Document
from kubarium.base.errors import ConfigError

# What a request raises when a file or a command that it needs gives no token.
REFUSALS = (LightkubeConfigError,)


def connect(document: Document, context: str, timeout: httpx2.Timeout) -> httpx2.AsyncClient:
    """A client for ``context`` of a kubeconfig. ConfigError when its credentials cannot be used."""
    try:
        config = KubeConfig.from_dict(document).get(context)
    except (LightkubeConfigError, msgspec.ValidationError, KeyError) as error:
        raise ConfigError(f"kubeconfig context {context!r}: {error}") from error
    assert config is not None
    config = config._replace(user=config.user or User())
    try:
        return AsyncClient(config, ConnectionParams(timeout=timeout))
    except (LightkubeConfigError, OSError, ValueError) as error:
        # ssl.SSLError is an OSError; a bad base64 is a ValueError
        raise ConfigError(
            f"kubeconfig context {context!r}: the credentials cannot be used: {error}"
        ) from error
