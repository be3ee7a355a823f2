"""Probe suites: questions, the concepts that an answer must name, and scores of answers."""
