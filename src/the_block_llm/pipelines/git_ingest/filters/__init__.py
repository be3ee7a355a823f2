"""Decides which files are kept: drop reasons, ``.gitattributes``, encodings."""
