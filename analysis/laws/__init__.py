"""Scaling laws: one law per file; the file's name is what `tokenlaw fit --law` takes."""
