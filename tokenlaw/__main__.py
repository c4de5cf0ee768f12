"""Run the command line: `python -m tokenlaw` is `tokenlaw`."""

from .sweeps.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main())
