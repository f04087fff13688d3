"""Programs that lab and demo pods run. Each stands alone: standard library and NumPy only."""
