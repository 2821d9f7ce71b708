// The container that holds a pod's namespaces in tests/cluster.
module flowstill.dev/tools/pause

go 1.26.0
