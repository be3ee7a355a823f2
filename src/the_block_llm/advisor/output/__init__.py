"""Output of the models: streaming, citation checks, sanitizing, perplexity of code lines."""
