"""Starts training processes, here or by a job script, and supervises them."""
