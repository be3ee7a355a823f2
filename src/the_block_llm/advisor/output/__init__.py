"""Answers on their way out: streaming, citations, sanitizing, perplexity of lines."""
