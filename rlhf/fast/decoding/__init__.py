"""Writing with the common families: their weights laid out for one short step a token over a cache of fixed size."""
