"""Options of each method, one file a method, torch-free."""
