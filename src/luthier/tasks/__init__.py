"""Tasks: what is learned. One file a task, each from record to score."""
