"""Pure decisions: functions of (snapshot, now, seed) that return plans and verdicts.

Frozen dataclasses and integer arrays only; knows no API document, no I/O, no clock."""
