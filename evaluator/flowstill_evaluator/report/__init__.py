"""One page a reader can trust."""
