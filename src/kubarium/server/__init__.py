"""The Kubernetes REST API over the store: wire, discovery, admission, watch, authn, authz."""
