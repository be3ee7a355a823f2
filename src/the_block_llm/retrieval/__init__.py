"""Finding passages of a repository, and checking what an answer says about it.

One implementation for the evaluation and the advisor: what is measured is what is used.
"""
