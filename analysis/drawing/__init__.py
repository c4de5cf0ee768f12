"""Draw figures from a table: the index of figures, their panels and their style."""
