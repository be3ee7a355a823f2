"""Kedro datasets and the tables behind them: Parquet parts on disk or in an object store."""
