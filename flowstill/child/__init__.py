"""What every child process does at its edges: its task, its progress, its signals, its result."""
