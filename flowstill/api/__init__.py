"""The API ``flowstill.dev/v1alpha1``: typed spec and status, and what children are told and say."""

GROUP = "flowstill.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
