"""Cuts token sequences into chunks and packs them into rows of ``context_tokens``."""
