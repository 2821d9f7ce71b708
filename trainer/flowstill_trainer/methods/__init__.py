"""One loss a module."""
