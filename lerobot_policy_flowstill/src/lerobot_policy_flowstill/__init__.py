"""One-step students of flow-matching policies, registered with LeRobot as a plugin."""
