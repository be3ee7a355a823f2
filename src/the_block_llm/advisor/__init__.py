"""Answers questions with a tuned model and the repository: ``kedro ask`` and ``kedro serve``."""
