"""A real Kubernetes on a bare test machine: binaries, control plane, one node with containers, images.

Everything is built from Go modules and Debian packages, runs here only, and is stopped by whoever started it.
By hand: ``python -m tests.cluster.harness up --node``.
"""
