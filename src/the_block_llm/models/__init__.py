"""Models: profiles, loading in 4 bits, adapters, and the two training engines."""
