"""Builds the report: JSON, HTML page, summary cards, forest plot, trend."""
