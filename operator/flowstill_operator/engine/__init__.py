"""The reconcile loop and what it writes."""
