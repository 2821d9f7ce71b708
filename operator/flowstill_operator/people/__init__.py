"""What the command line shows people about resources, in a cluster or on this machine, and what it does for them."""
