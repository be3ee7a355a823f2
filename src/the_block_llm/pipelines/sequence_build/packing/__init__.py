"""Split token sequences into chunks and pack them into rows of ``context_tokens``."""
