"""The options of each way to protect old skills, torch-free."""
