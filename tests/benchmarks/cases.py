"""The races: which work, who takes part, and what differs between them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from tests.benchmarks.shapes import Work

PPO_PEER, PEER = "trl-1.12.0", "trl-1.16.0"

PIECES = ("activations", "packing", "decoders", "fast")
"""What ours can be raced without; `fast` is all of it."""


@dataclass(frozen=True)
class Entry:
    """One contender.

    Attributes:
        name: in the table.
        subject: what its worker runs.
        peer: folder of the peer's library; None for what the project has.
        options: of the subject.
        differs: from the others, beside who wrote it.
    """

    name: str
    subject: str
    peer: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    differs: str = ""

    @property
    def ours(self) -> bool:
        """Whether this is us, with all that we have."""
        return self.subject.startswith("ours:") and "without" not in self.options

    def without(self, piece: str) -> Entry:
        """The same without a piece of `rlhf/fast`, as a peer of ours."""
        return replace(self, name=f"{self.name}, without {piece}", options={**self.options, "without": piece})


@dataclass(frozen=True)
class Case:
    """One race.

    Attributes:
        name: by which it is chosen.
        title: of its table.
        kind: sft, reward, ppo, lora or sampling.
        work: how much.
        entries: who takes part.
        extra: whether it is run only where it is named.
        device: that it is sized for, and on which it is run unless it is named.
    """

    name: str
    title: str
    kind: str
    work: Work
    entries: tuple[Entry, ...]
    extra: bool = False
    device: str = "cpu"


PPO = (
    Entry(
        "ours, value network",
        "ours:ppo",
        options={"critic": "network"},
        differs="the scorer gets text, which is encoded anew; gradients are clipped; every KL estimator is reported",
    ),
    Entry("ours, value head", "ours:ppo", options={"critic": "head"}, differs="as above; no value network"),
    Entry("TRL 1.12.0", "peers:ppo", PPO_PEER, differs="value network; scorer and critic have its own scalar heads"),
)
SFT = (
    Entry("ours", "ours:sft"),
    Entry("TRL 1.16.0", "peers:sft", PEER, differs="float32, no checkpointing"),
    Entry("TRL 1.16.0, defaults", "peers:sft", PEER, {"defaults": True}, "bfloat16 and checkpointing"),
    Entry("TRL 1.16.0, packing", "peers:sft", PEER, {"packing": True}, "float32, no checkpointing; blocks of 512"),
    Entry(
        "TRL 1.16.0, packing, defaults",
        "peers:sft",
        PEER,
        {"packing": True, "defaults": True},
        "bfloat16 and checkpointing; blocks of 512",
    ),
)
REWARD = (
    Entry("ours", "ours:reward", differs="texts are encoded in every step; a linear head, no log-likelihood feature"),
    Entry("TRL 1.16.0", "peers:reward", PEER, differs="float32, no checkpointing; encoded once"),
    Entry("TRL 1.16.0, defaults", "peers:reward", PEER, {"defaults": True}, "bfloat16 and checkpointing"),
)
SAMPLING = (
    Entry("ours", "ours:sampling", differs="returns logprobs too; a stream of random numbers for each row"),
    Entry("transformers' generate", "generate:sampling"),
)

_PPO = Work(longest_prompt=24, stop=0.0)
_SAMPLING = Work(longest_prompt=24, new_tokens=64, stop=0.0)


def _sampling(name: str, title: str, extra: bool = True, **fields: Any) -> list[Case]:
    """A case of each vocabulary; the large one samples half as many tokens, and may be extra."""
    small = Case(f"sampling-{name}", f"Sampling, {title}", "sampling", replace(_SAMPLING, **fields), SAMPLING)
    return [small, replace(_large(small, new_tokens=32), extra=extra)]


def _large(case: Case, **fields: Any) -> Case:
    """The same at a large vocabulary."""
    work = replace(case.work, shape="small-50k", **fields)
    return replace(case, name=f"{case.name}-50k", title=f"{case.title}, V = 50,257", work=work)


_ON_GPU = (
    Case(
        "gpu-sampling",
        "Sampling, GPT-2 124M, batch of 256",
        "sampling",
        Work("gpt2-124m", rows=256, new_tokens=256, longest_prompt=64, stop=0.0),
        (
            replace(SAMPLING[0], differs=f"{SAMPLING[0].differs}; CUDA graphs, recorded anew in each call"),
            Entry("ours, masked", "ours:sampling", options={"masked": True}, differs="as above; attends to buckets"),
            SAMPLING[1],
        ),
    ),
    Case(
        "gpu-ppo",
        "PPO iteration, GPT-2 124M, 128 prompts × 128 tokens, 4 epochs × 4 minibatches",
        "ppo",
        Work("gpt2-124m", rows=128, new_tokens=128, longest_prompt=64, stop=0.0),
        (
            replace(PPO[0], differs=f"{PPO[0].differs}; weights in float32, products in --dtype"),
            PPO[1],
            replace(PPO[2], differs=f"{PPO[2].differs}; weights in --dtype, since it has no mixed precision"),
        ),
    ),
    Case(
        "gpu-sft",
        "SFT step, Llama 1B, 24 ragged demonstrations",
        "sft",
        Work("llama-1b", rows=24, longest_prompt=256, longest_response=1_024),
        (
            Entry("ours", "ours:sft", differs="weights in float32, products in --dtype, no checkpointing"),
            Entry(
                "TRL 1.16.0, packing", "peers:sft", PEER, {"packing": True}, "the same; blocks of 2,048, masked SDPA"
            ),
        ),
    ),
    Case(
        "gpu-lora",
        "PPO iteration with LoRA, Llama 1B, 64 prompts × 128 tokens, 4 epochs × 4 minibatches",
        "lora",
        Work("llama-1b", rows=64, new_tokens=128, longest_prompt=64),
        (
            Entry(
                "ours, LoRA",
                "ours:lora",
                options={"critic": "head", "micro_batch_size": 16},
                differs="weights in --dtype, adapter in float32, checkpointing; a rule for a scorer; samples by the "
                "model's own forward, since the adapter is not merged",
            ),
        ),
    ),
)

_PPO_CASE = Case("ppo", "PPO iteration, 64 prompts × 32 tokens, 4 epochs × 4 minibatches", "ppo", _PPO, PPO)
_SFT_CASE = Case("sft", "SFT step, 64 ragged demonstrations", "sft", Work(), SFT)
_RANKINGS = Work(rows=11, completions=4)
CASES = (
    *(_PPO_CASE, _large(_PPO_CASE)),
    Case("ppo-stops", "PPO iteration, responses stop at 1 in 16 tokens", "ppo", replace(_PPO, stop=1 / 16), PPO, True),
    *(_SFT_CASE, _large(_SFT_CASE)),
    Case("reward", "Reward step, 64 ragged pairs", "reward", Work(), REWARD),
    Case("reward-rankings", "Reward step, 11 rankings of 4 completions (66 pairs)", "reward", _RANKINGS, REWARD),
    *_sampling("1", "batch of 1", extra=False, rows=1),
    *_sampling("8", "batch of 8", rows=8),
    *_sampling("32", "batch of 32", rows=32),
    *_sampling("128", "batch of 128", extra=False, rows=128),
    *_sampling("stops", "batch of 128, stops at 1 in 32 tokens", rows=128, stop=1 / 32),
    *_sampling("filters", "batch of 32, top-k 50 and top-p 0.9", rows=32, top_k=50, top_p=0.9),
    *(replace(case, device="cuda") for case in _ON_GPU),
)
