"""Options of each task, one file a task, torch-free."""
