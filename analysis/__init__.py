"""ANALYSE: frontiers, laws with intervals, figures and a report from a table of end points."""

if __name__ != "tokenlaw.analysis":
    raise ImportError("analysis is imported as tokenlaw.analysis", name=__name__)
