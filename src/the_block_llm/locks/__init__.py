"""Locks and leases between processes, on one machine or several that share a file system."""
