"""The settings of every learning step, a file each, as frozen strict models; importing them costs no torch."""
