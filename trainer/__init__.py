"""TRAIN: one run in, one endpoint out; the five kinds of run share its parts."""

if __name__ != "tokenlaw.trainer":
    raise ImportError("trainer is imported as tokenlaw.trainer", name=__name__)
