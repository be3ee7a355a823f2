"""Pipeline that reads a git repository into tables of commits, file changes and files."""
