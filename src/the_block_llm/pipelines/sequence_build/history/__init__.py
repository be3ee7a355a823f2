"""Assigns commits to splits and indexes which paths they changed."""
