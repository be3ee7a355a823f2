"""The advisor: questions about a repository, answered from it and by the tuned model."""
