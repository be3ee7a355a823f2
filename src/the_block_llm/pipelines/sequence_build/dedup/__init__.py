"""Find exact and near duplicates (MinHash, LSH) and exclude documents that leak across splits."""
