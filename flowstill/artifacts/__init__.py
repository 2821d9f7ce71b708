"""Artifacts: where they lie, what their bytes must be, and how they are published and read."""
