"""The model of small nights: it learns something of the generated corpus within seconds."""

MODEL = """\
model:
  config:
    model_type: llama
    hidden_size: 48
    intermediate_size: 96
    num_hidden_layers: 1
    num_attention_heads: 2
    max_position_embeddings: 160
    tie_word_embeddings: true
  vocab_size: 400
  device: cpu
  threads: 1
"""
"""A section of params.yaml."""
