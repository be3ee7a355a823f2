"""Answers questions about the repository with a tuned model: ``kedro ask`` and ``kedro serve``."""
