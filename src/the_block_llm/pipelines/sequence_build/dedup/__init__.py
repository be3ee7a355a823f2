"""Finds exact and near duplicates (MinHash) and removes what would leak across the cut-off."""
