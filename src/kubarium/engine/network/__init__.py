"""Who may talk to whom: network policies as a decision over addresses."""
