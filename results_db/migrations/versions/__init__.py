"""The migrations, in order: NNNN_what_it_does.py, whose revision is NNNN."""
