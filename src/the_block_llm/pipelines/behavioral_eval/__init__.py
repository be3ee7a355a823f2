"""Pipeline that compares base and tuned model on held-out text, tasks and probes."""
