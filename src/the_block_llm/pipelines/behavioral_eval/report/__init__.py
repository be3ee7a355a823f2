"""Renders the report: JSON, HTML, summary cards, forest plot, trend."""
