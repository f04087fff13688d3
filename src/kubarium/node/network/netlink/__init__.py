"""The kernel's netlink protocol, as far as pod networks need it.

Our own, and small, because the sockets come from other network namespaces as open descriptors
(libraries open their own), because no program of the machine (``ip``, ``nft``) may be counted on,
and because the encoding is pure and thus easy to test.
"""
