"""The node agent: pods become processes or simulations; devices are published and prepared."""
