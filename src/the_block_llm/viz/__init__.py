"""The Kedro-Viz site, its table statistics, and the common style of plots."""
