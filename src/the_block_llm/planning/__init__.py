"""Estimate time and cost for a corpus of a given size: ``kedro estimate``."""
