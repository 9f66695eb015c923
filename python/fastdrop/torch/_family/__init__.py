"""The family in PyTorch: a file for each idea, with functions and modules."""
