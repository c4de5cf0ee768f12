"""ANALYSE: frontiers, laws with intervals, crossovers, figures and the report, from one tidy table of end points."""
