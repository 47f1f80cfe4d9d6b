"""Prompt tuning: learnt embeddings before every prompt, under token ids past the vocabulary.

A soft prompt of n embeddings gives the model the ids V … V+n−1, which `Policy.encode_prompt` puts first. To the
sampler, masks and positions they are tokens like any other; the head still has V outputs, so none can be drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

FILE = "soft_prompt.safetensors"
COMMON = 5000


class SoftPrompt(nn.Module):
    """An embedding of V + n tokens: the model's own V, and n that prompt tuning learns (Lester et al. 2021, §2).

    Args:
        embedding: the model's own.
        start: the first values of the others.
    """

    def __init__(self, embedding: nn.Embedding, start: Float[Tensor, "N H"]) -> None:
        super().__init__()
        self.embedding = embedding
        self.table = nn.Parameter(start.detach().float().clone().to(embedding.weight.device))

    @property
    def weight(self) -> Tensor:
        """The model's own embeddings, which the head may share."""
        return self.embedding.weight

    @property
    def ids(self) -> list[int]:
        """The ids of the learnt ones."""
        size = self.embedding.num_embeddings
        return list(range(size, size + len(self.table)))

    def forward(self, input_ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape H"]:
        """Embeddings of either kind."""
        index = input_ids - self.embedding.num_embeddings
        own = self.embedding(input_ids.clamp(max=self.embedding.num_embeddings - 1))
        learnt = nn.functional.embedding(index.clamp(min=0), self.table).to(own.dtype)
        return torch.where((index >= 0)[..., None], learnt, own)


def soft_prompt(model: nn.Module) -> SoftPrompt | None:
    """The model's soft prompt, where it has one."""
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    return embedding if isinstance(embedding, SoftPrompt) else None


def add_soft_prompt(model: nn.Module, start: Float[Tensor, "N H"]) -> None:
    """Gives the model as many more ids as `start` has rows, with these embeddings."""
    model.set_input_embeddings(SoftPrompt(model.get_input_embeddings(), start))  # type: ignore[operator]


def draw_start(
    model: nn.Module, size: int, excluded: Sequence[int], generator: torch.Generator
) -> Float[Tensor, "N H"]:
    """Embeddings of `size` tokens, drawn from the 5,000 most common ones that are not excluded.

    Source: Lester et al. (2021), §3.2, where such a start learns better than a random one. A BPE's first ids are its
    most common tokens.
    """
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    known = sorted(set(range(min(COMMON, embedding.num_embeddings))) - set(excluded))
    indices = torch.randint(len(known), (size,), generator=generator)
    with torch.no_grad():
        drawn: Tensor = embedding(torch.tensor(known, device=embedding.weight.device)[indices])
    return drawn


@contextmanager
def without_soft_prompt(model: nn.Module) -> Iterator[None]:
    """The model with its own embedding alone, as transformers' files need it."""
    prompt = soft_prompt(model)
    try:
        if prompt is not None:
            model.set_input_embeddings(prompt.embedding)  # type: ignore[operator]
        yield
    finally:
        if prompt is not None:
            model.set_input_embeddings(prompt)  # type: ignore[operator]


def save_soft_prompt(model: nn.Module, folder: Path) -> None:
    """Writes the learnt embeddings beside the model's own files; without any, removes those of an earlier model."""
    from safetensors.torch import save_file

    prompt = soft_prompt(model)
    if prompt is None:
        (folder / FILE).unlink(missing_ok=True)
    else:
        save_file({"table": prompt.table.detach().contiguous()}, folder / FILE)


def load_soft_prompt(model: nn.Module, folder: Path) -> None:
    """Adds the soft prompt beside the model's files, if there is one."""
    from safetensors.torch import load_file

    if (folder / FILE).is_file():
        add_soft_prompt(model, load_file(folder / FILE)["table"])
