"""Generation explained: the next-token distribution at every step, before and after each of the sampler's controls.

What is shown is what is sampled: the stages are the sampler's own, and its `warp` is the last of them.
Dimensions: P prompt tokens, T tokens of the continuation, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.batches import make_batch
from rlhf.drawing.controls import as_controls, warp_stages
from rlhf.heads import response_logits
from rlhf.models import Policy
from rlhf.records import Sampling

RAW = "raw"
BLANKS = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"})


class SamplerStage(NamedTuple):
    """The next-token distribution after a control.

    Attributes:
        control: `raw` for the model's own distribution, else the control's name in `Sampling`.
        probabilities: of each token of the vocabulary; 0 where the control, or one before it, cut the token.
        entropy: −Σ p·log p, in nats.
        cut: the probability that the tokens cut by this control had in the stage before.
    """

    control: str
    probabilities: Float[Tensor, " V"]
    entropy: float
    cut: float


@torch.no_grad()
def trace(policy: Policy, prompt: Sequence[int], tokens: Sequence[int], sampling: Sampling) -> list[list[SamplerStage]]:
    """The stages before each token of a continuation, whichever model wrote it (it is forced on this one).

    Args:
        policy: the model whose distributions are computed.
        prompt: its prompt as token ids.
        tokens: the continuation as token ids, EOS included where it has one.
        sampling: the controls; those that are off are left out.

    Returns:
        For each token: the raw distribution, then the one after each control that is on, in the sampler's order.
    """
    logits = response_logits(policy.model, make_batch([prompt], [tokens], policy.device))[0].float()
    config = policy.model.config
    # What the repetition penalty counts in: a decoder's own tokens, or the prompt's too, but no learnt embedding.
    past = [config.decoder_start_token_id] if config.is_encoder_decoder else prompt[len(policy.soft_ids) :]
    return [
        list(explain_step(logits[step], [*past, *tokens[:step]], sampling, step, policy.stop_ids))
        for step in range(len(tokens))
    ]


def explain_step(
    logits: Float[Tensor, " V"], history: Sequence[int], sampling: Sampling, step: int, stop_ids: Sequence[int]
) -> Iterator[SamplerStage]:
    """The stages of one step, from the logits after `history`; `step` tokens of it are the continuation's."""
    probabilities = logits.softmax(-1)
    yield SamplerStage(RAW, probabilities, _entropy(probabilities), 0.0)
    past = torch.tensor([list(history)], device=logits.device)
    controls = as_controls([sampling], logits.device)
    for control, warped in warp_stages(logits[None], controls, past, torch.ones_like(past).bool(), step, stop_ids):
        if control in _controls_on(sampling):
            before, probabilities = probabilities, warped[0].softmax(-1)
            cut = before[(probabilities == 0) & torch.isneginf(warped[0])].sum()
            yield SamplerStage(control, probabilities, _entropy(probabilities), float(cut))


def readable_token(policy: Policy, token: int) -> str:
    """A token for people: a space as ·, a line break as ⏎, special tokens by name, parts of a character as they are."""
    piece: Any = policy.tokenizer.convert_ids_to_tokens(token)
    if piece is None:
        return f"#{token}"  # a row of the embedding that no token uses
    text = str(policy.tokenizer.decode([token]))
    if token in policy.tokenizer.all_special_ids or "\ufffd" in text or not text:
        return str(piece)
    # A tokenizer of the SentencePiece kind drops the space that opens a text, and a token alone is one.
    lead = " " if piece.startswith("▁") and not text.startswith(" ") else ""
    return (lead + text).translate(BLANKS)


def _controls_on(sampling: Sampling) -> set[str]:
    """Names of the controls that change something; temperature 0 does not: it takes the likeliest of the rest."""
    plain = Sampling()
    on = {name for name in type(sampling).model_fields if getattr(sampling, name) != getattr(plain, name)}
    return on - {"temperature"} if sampling.temperature == 0.0 else on


def _entropy(probabilities: Float[Tensor, " V"]) -> float:
    return float(torch.special.entr(probabilities).sum())
