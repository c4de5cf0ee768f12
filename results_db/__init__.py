"""RECORD: durable files, the database that indexes them, and one tidy table for pandas."""
