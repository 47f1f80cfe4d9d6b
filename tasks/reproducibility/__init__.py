"""What made a result, kept by git and DVC: dvc.yaml drawn, digests, experiments, and a night reproduced."""
