"""From logits to tokens: controls, the inverted distribution, what was drawn; and what a decoder is to a sampler."""
