"""Retrieval of passages of a repository, and verification of citations in answers.

Shared by evaluation and advisor, so that the evaluated code is the code in use.
"""
