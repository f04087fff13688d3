"""The kubarium command."""
