"""The members of the family, a file for each idea: its function beside its layer."""
