"""What a DistillJob needs next."""
