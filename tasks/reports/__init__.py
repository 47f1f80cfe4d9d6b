"""What people look at: pictures and pages of what was measured, plots that DVC draws, the night in a few lines."""
