"""Builds prompts as token ids and truncates them to the token limit."""
