"""Where objects lie, one module a service."""
