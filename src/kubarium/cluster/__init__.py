"""The only wiring: picks clock, chance, store and client, and starts the parts."""
