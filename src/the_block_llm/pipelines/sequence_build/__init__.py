"""Pipeline that renders documents from the tables and packs them into training rows."""
