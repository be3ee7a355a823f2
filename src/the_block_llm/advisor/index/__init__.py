"""The search index of the repository, built from the tables of git_ingest."""
