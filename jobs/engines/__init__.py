"""Where tasks run when one machine is too small."""
