"""Hyperparameter search: which assignments to try, when to stop, which was best. Pure."""
