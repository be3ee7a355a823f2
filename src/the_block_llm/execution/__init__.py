"""Run jobs of the data pipelines in local processes or on a Ray cluster."""
