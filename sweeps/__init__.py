"""PLAN: grids become runs with identity and cost; the command line."""
