"""Finds the repositories to read: local paths, clones of URLs, lists, and forks among them."""
