"""LAUNCH: where planned runs are executed; SLURM is the first executor, Ray the second."""

if __name__ != "tokenlaw.slurm":
    raise ImportError("slurm is imported as tokenlaw.slurm", name=__name__)
