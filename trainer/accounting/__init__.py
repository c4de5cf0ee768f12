"""Count parameters, FLOPs, schedules and ids without torch. Every package may import this room."""
