"""The Deployment controller (apps/v1). Start reading at controller.py; sizes are in rollout.py."""
