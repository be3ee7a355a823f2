"""Tokenize documents, with a cache of earlier results, into the table ``documents``."""
