"""Tests against a real control plane, and against a node with real containers."""
