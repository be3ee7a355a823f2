"""Predicts memory and step time, and searches for the fastest plan that fits."""
