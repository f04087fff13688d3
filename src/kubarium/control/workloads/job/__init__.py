"""The Job controller (batch/v1). Start reading at controller.py; decisions are in decide.py."""
