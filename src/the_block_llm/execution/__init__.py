"""Where jobs of the data run: local processes or a Ray cluster."""
