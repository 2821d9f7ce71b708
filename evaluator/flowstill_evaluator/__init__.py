"""Parity, paired rollouts, gates and the report."""
