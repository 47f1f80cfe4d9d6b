"""What all that train the policy share: the trainer's frame, rollouts and their scores, the reward-hacking monitor."""
