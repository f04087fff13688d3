"""Controllers, one package per family; families meet only through API objects."""
