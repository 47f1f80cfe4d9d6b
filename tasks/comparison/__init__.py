"""Two nights beside each other: what each left in MLflow, how they differ, and that as text and as a page."""
