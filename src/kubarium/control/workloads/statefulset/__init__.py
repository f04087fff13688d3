"""The StatefulSet controller (apps/v1). Start reading at controller.py."""
