"""What upstream's strategies do to particular kinds, one module per family of kinds."""
