"""The HTTP server: OpenAI-compatible routes, the page, access, queue and metrics."""
