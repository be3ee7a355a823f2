"""Pipeline that compares the base and the tuned model on held-out text, tasks and probes."""
