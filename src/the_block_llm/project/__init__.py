"""Configuration loading, checks of parameters and run options, and the summary of a run."""
