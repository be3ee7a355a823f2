"""Masks secrets and replaces author identities by pseudonyms."""
