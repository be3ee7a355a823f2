"""Generation, and the likelihood of given continuations."""
