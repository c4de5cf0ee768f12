"""ANALYSE: frontiers, laws with intervals, figures and a report from a table of end points."""
