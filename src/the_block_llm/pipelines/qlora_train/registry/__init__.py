"""Lists, compares and prunes the trained adapters."""
