"""Kedro datasets, and tables of Parquet parts on a file system or in an object store."""
