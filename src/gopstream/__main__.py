"""Run the command line as ``python -m gopstream``."""

from gopstream.jobs.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
