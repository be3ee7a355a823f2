"""The HTTP interface: what OpenAI's clients speak, and a page."""
