"""Run inside a job: the payload, its worker processes and their devices."""
