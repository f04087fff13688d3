"""The cluster's name server: wire format and zone are pure, the server is a thin shell."""
