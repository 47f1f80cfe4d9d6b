"""What training stages share: where they start, what they replay, checkpoints, bad batches, the hacking monitor."""
