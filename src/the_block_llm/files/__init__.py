"""Writes files so that a power failure leaves the old or the new; finds damaged ones."""
