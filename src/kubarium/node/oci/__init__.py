"""Container images: references, the content store, layers unpacked, what a config says."""
