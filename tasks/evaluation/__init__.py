"""Parts of evaluate: few-shot prompts, what was forgotten, tables of lengths and ROUGE; scores of any file."""
