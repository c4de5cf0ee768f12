"""Fit scaling laws to a table, predict from them, and check them."""
