"""The nine gates."""
