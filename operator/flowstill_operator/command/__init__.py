"""The command line ``flowstill``: the same manifests without a cluster."""
