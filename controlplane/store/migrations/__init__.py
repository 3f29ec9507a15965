"""The steps from one schema to the next (Alembic). A step that was released is never edited."""
