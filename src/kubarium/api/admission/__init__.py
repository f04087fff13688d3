"""Rules that upstream keeps in admission webhooks of its operators: pure defaulting and checks.

The server calls them where upstream's API server would call the webhook."""
