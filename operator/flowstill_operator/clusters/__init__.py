"""The two places where effects happen."""
