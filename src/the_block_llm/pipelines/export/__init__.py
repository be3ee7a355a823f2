"""Pipeline that merges an adapter into its base model and exports it, also for Ollama."""
