"""What training stages share: models they start from, demonstrations they replay, checkpoints, the hacking monitor."""
