"""The HTTP server: OpenAI-compatible routes, web page, authentication, request queue, metrics."""
