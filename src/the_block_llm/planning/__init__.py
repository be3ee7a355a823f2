"""Estimates what a corpus of a given size will cost: ``kedro estimate``."""
