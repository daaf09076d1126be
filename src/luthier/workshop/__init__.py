"""Work on data that needs a model: making rows, finding faults, labelling."""
