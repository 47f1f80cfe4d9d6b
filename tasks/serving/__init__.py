"""What MLflow loads when it serves a registered model, and how it is packed."""
