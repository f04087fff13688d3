"""What every part may stand on: clock and chance protocols, quantities, typed errors, limits.

Knows nothing of Kubernetes documents beyond their scalar formats. Start reading at clock.py."""
