"""Extracts the files of one commit into the table ``snapshot_files``."""
