"""Schema changes of the database, one numbered file each in versions/ (Alembic)."""
