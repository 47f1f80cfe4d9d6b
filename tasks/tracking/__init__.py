"""What happened, on its way to MLflow: runs of nights and stages, figures of steps, samples; and the store behind."""
