"""Around a run: configuration, checks of parameters and options, and the closing summary."""
