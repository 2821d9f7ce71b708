"""Flowstill as a Kubernetes operator and as a local runner."""
