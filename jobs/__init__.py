"""What a person runs: the command line and the jobs behind it."""
