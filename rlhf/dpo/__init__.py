"""Direct preference optimisation: a policy that learns from pairs, with no reward model in between."""
