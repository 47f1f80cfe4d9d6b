"""From challenger to champion and back: registry, gates, decisions, model card, and where a version came from."""
