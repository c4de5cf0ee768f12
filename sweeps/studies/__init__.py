"""Built-in studies: each file has a function `study() -> Grid`, and its name is what `tokenlaw plan
NAME` takes.
"""
