"""What the data must hold to: the expectations of each suite, the tables that they look at, lengths and splits."""
