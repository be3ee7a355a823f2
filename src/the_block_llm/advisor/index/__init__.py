"""The index of the repository, built from the tables or from a working tree."""
