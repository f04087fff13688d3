"""Device claims: made from templates, released and deleted when nobody uses them."""

from kubarium.control.devices.claims import ClaimCleaner, ClaimGenerator
from kubarium.runtime.protocol import Component, Context


def components(context: Context) -> list[Component]:
    """The components of this family."""
    return [ClaimGenerator(context).controller, ClaimCleaner(context).controller]
