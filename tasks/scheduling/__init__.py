"""What surrounds a night: when it is due, the lock and the deadline that it keeps, how it ended and who is notified."""
