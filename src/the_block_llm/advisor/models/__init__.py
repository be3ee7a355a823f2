"""Which model answers, and the pool of loaded ones."""
