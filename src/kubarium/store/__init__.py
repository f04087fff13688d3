"""An append-only, versioned, watchable store with one global revision. Knows keys and documents."""
