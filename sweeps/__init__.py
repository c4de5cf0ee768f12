"""PLAN: grids become runs with identity and cost; the command line."""

if __name__ != "tokenlaw.sweeps":
    raise ImportError("sweeps is imported as tokenlaw.sweeps", name=__name__)
