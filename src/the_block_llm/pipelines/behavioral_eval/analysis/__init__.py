"""Paired statistics, the verdict, and negative controls."""
