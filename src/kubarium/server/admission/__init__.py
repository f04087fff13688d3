"""Built-in admission: a short ordered list of functions that change or refuse a write.

Upstream's plug-ins by their names (``plugin/pkg/admission``); each is one module here."""
