"""Sampling by transformers' `generate`, on the same left-padded batch."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.benchmarks import shapes
from tests.benchmarks.worker import Job, Turns


def sampling(job: Job, turn: Turns) -> None:
    """One batch of completions."""
    work = job.work
    model: Any = AutoModelForCausalLM.from_pretrained(job.folder, dtype=getattr(torch, job.dtype))
    model = model.to(job.device).eval()
    prompts = shapes.prompts(work)
    width = max(map(len, prompts))
    padded = [[shapes.PAD] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    inputs = {
        "input_ids": torch.tensor(padded, device=job.device),
        "attention_mask": torch.tensor(mask, device=job.device),
    }
    torch.manual_seed(0)
    turn()
    while True:
        output = model.generate(
            **inputs,
            do_sample=True,
            temperature=1.0,
            top_k=work.top_k,
            top_p=work.top_p,
            max_new_tokens=work.new_tokens,
            eos_token_id=shapes.EOS,
            pad_token_id=shapes.PAD,
        )
        stops = output[:, width:] == shapes.EOS
        turn(tokens=int((stops.cumsum(1) - stops.long() == 0).sum()))
