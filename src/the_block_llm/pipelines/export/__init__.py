"""Pipeline that merges an adapter into a plain model and writes what Ollama needs."""
