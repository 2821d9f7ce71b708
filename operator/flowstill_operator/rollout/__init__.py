"""What a StudentRollout needs next."""
