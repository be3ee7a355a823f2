"""Turn a git repository into a local architecture advisor."""

__version__ = "0.1.0"
