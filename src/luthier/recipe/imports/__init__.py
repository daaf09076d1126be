"""Other tools' configurations as recipes, one file a tool, torch-free."""
