"""Public pytest fixtures: an in-process cluster, the virtual clock, builders."""
