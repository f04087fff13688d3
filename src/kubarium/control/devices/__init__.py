"""ResourceClaims from templates, reservations and deallocation."""
