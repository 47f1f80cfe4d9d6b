"""params.yaml: a module of settings for each stage (what learns has its own in rlhf/settings), and the whole of it."""
