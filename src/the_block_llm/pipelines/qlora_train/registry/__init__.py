"""The trained adapters: listing, comparing and pruning versions."""
