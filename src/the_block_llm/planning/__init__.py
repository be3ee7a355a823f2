"""What data and training will cost at a size that is given, from rates that were measured."""
