"""Probe suites: questions, what a good answer must contain, and their scores."""
