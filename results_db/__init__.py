"""RECORD: durable files, the database that indexes them, and one tidy table for pandas."""

if __name__ != "tokenlaw.results_db":
    raise ImportError(
        "the package results_db is imported as tokenlaw.results_db", name="results_db"
    )
