"""The scheduler shell: asks engine.placement and commits bindings and allocations."""
