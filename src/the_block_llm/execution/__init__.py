"""Where jobs of the data pipelines run: on this machine or on a Ray cluster."""
