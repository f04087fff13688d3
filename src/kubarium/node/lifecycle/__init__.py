"""The life of a pod as a state machine: events in, instructions out; no I/O, no clock."""
