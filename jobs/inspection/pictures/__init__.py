"""Pictures of frames, vectors and residuals."""
