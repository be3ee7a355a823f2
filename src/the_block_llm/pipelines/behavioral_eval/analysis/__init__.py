"""Statistics of the comparison: paired intervals, verdict, negative controls."""
