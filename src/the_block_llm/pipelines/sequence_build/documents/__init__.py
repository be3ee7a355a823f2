"""Renders files, commits and chats as documents."""
