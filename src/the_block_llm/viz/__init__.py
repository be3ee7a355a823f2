"""What people look at besides reports: the Kedro-Viz site, its row counts, the style of plots."""
