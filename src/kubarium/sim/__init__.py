"""A whole cluster on the virtual clock: the same controllers, seconds instead of hours."""
