"""The one door: a prepared model computes what a plain one does, and nothing but the door knows what is behind it."""

from __future__ import annotations

import ast
import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.adapters import attach
from rlhf.batches import make_batch
from rlhf.drawing.decoders import Decoder, Writer
from rlhf.generation import sample, sampler
from rlhf.generation.decoding import ForwardDecoder
from rlhf.heads import response_logprobs
from rlhf.models import Policy, build_policy, load_policy, save_policy
from rlhf.ppo.critic import Critic
from rlhf.ppo.trainer import PpoTrainer
from rlhf.settings.adapters import AdapterSettings
from rlhf.settings.model import ComputeSettings
from rlhf.settings.policy import PolicySettings
from rlhf.settings.sft import SftSettings
from rlhf.sft import train_sft
from tests.rlhf.fast.decoding.test_cached import FAMILIES, MIXED, PROMPTS, SEEDS

NAMES = ("gpt2", "llama, two heads share keys")
PLAIN, FAST = ComputeSettings(device="cpu", fast=False), ComputeSettings(device="cpu")
EXAMPLES = [([5, 6, 2], [7, 8, 1]), ([9, 2], [4, 1]), ([3, 3, 3, 2], [6, 5, 4, 1]), ([7, 2], [9, 9, 9, 9, 9, 1])]


@pytest.fixture(params=NAMES)
def both(request: pytest.FixtureRequest, bpe: Any) -> tuple[Policy, Policy]:
    """The same model twice, plain and prepared."""
    plain, fast = (build_policy(FAMILIES[request.param], bpe, 0, compute) for compute in (PLAIN, FAST))
    return plain, fast


@torch.no_grad()
def assert_same_distribution(plain: Policy, fast: Policy) -> None:
    """Of the responses; weights that no logit depends on, as the keys' biases, drift with the rounding."""
    prompts, responses = zip(*EXAMPLES, strict=True)
    batch = make_batch(prompts, responses)
    one, other = (response_logprobs(policy.model, batch) for policy in (plain, fast))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_a_plain_model_is_transformers_own(both: tuple[Policy, Policy], tmp_path: Path) -> None:
    """Its activations, its attention and its forward for every token, built or loaded; prepared it has others."""
    plain, fast = both
    save_policy(plain, tmp_path)
    for policy, prepared in ((plain, False), (load_policy(tmp_path, PLAIN), False), (fast, True)):
        assert (policy.model.config._attn_implementation != "sdpa") == prepared
        assert any(type(module).__module__.startswith("rlhf") for module in policy.model.modules()) == (
            prepared and policy.model.config.model_type == "gpt2"
        )
        assert isinstance(sampler.open_decoder(policy, PROMPTS, 4), ForwardDecoder) != prepared


def test_both_write_the_same(both: tuple[Policy, Policy]) -> None:
    """The same tokens for the same seeds, logprobs within 1e-5, whatever the controls."""
    plain, fast = (sample(policy, PROMPTS, MIXED, SEEDS) for policy in both)
    assert torch.equal(plain.tokens, fast.tokens)
    torch.testing.assert_close(plain.logprobs, fast.logprobs, atol=1e-5, rtol=0)


def test_both_learn_the_same_from_demonstrations(both: tuple[Policy, Policy]) -> None:
    """Six steps of SFT on ragged rows without dropout: losses within 1e-4, then the same distribution."""
    settings = SftSettings(steps=6, batch_size=4, learning_rate=3e-3, eval_every=3)
    for policy in both:
        for module in policy.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    found = [[row["loss"] for row in train_sft(policy, EXAMPLES, EXAMPLES, settings)] for policy in both]
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    assert found[0][0] > found[0][-1] + 0.1
    assert_same_distribution(*both)


@pytest.mark.parametrize("critic", ["network", "head"])
def test_both_learn_the_same_by_ppo(both: tuple[Policy, Policy], critic: str, wordy: Any) -> None:
    """Two iterations, with either critic: what is sampled, measured and learnt."""
    sizes = {"iterations": 2, "prompts_per_iteration": 4, "minibatches": 2, "max_new_tokens": 6}
    settings = PolicySettings.model_validate({**sizes, "critic_warmup": 0, "critic": critic})
    found = []
    for policy in both:
        value = Critic(policy.model.base_model if critic == "network" else None, policy.hidden)
        trainer = PpoTrainer(
            policy=policy,
            reference=copy.deepcopy(policy),
            critic=value,
            scorer=wordy,
            prompts=["a", "b c", "d", "e a b"],
            settings=settings,
        )
        found.append(list(trainer.train()))
    for plain, fast in zip(*found, strict=True):
        assert plain == pytest.approx(fast, abs=1e-3)
    assert_same_distribution(*both)


@pytest.fixture
def wordy() -> Any:
    """A scorer that is a rule."""

    class Wordy:
        def score(self, prompts: object, completions: list[str], batch_size: int = 64) -> torch.Tensor:
            return torch.tensor([float(len(text) % 5) for text in completions])

    return Wordy()


def test_adapted_copies_and_models_without_a_head_are_prepared_too(both: tuple[Policy, Policy]) -> None:
    """Whatever is made of a prepared model has the door's forwards; of a plain one, none."""
    for policy, prepared in zip(both, (False, True), strict=True):
        adapted = attach(copy.deepcopy(policy), AdapterSettings(rank=2), seed=0)
        for model in (policy.model, policy.model.base_model, copy.deepcopy(policy.model.base_model), adapted.model):
            assert hasattr(model, "fast") == prepared


def test_every_decoder_keeps_the_protocol(both: tuple[Policy, Policy]) -> None:
    """Those of the CPU leave the drawing to the sampler; they give states where they have them."""
    for policy, knows in zip(both, (False, True), strict=True):
        decoder = sampler.open_decoder(policy, PROMPTS, 4)
        assert isinstance(decoder, Decoder)
        assert not isinstance(decoder, Writer)
        with torch.no_grad():
            decoder.first()
        assert (decoder.states is not None) == knows


def test_nothing_else_knows_what_is_behind_the_door(repository: Path) -> None:
    """Of the code outside `rlhf/fast/` only `rlhf/models.py` imports it, and there only `prepare`."""
    found: dict[str, set[str]] = {}
    for path in (file for layer in ("rlhf", "tasks", "flows") for file in (repository / layer).rglob("*.py")):
        name = path.relative_to(repository).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlhf.fast"):
                found.setdefault(name, set()).update(f"{node.module}.{alias.name}" for alias in node.names)
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("rlhf.fast") for alias in node.names), name
    outside = {name: names for name, names in found.items() if not name.startswith("rlhf/fast/")}
    assert outside == {"rlhf/models.py": {"rlhf.fast.prepare"}}
