"""The verbs of the command line, grouped as the flow goes. Each function imports what it needs when
it is called.
"""
