"""DPO: the policy learns which completion is preferred, by its own logprobs against the reference's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlhf.adapters import trainable_parameters
from rlhf.batches import make_batch
from rlhf.dpo.losses import preference_losses
from rlhf.dpo.pairs import PairTable
from rlhf.finite import NotFiniteError, check_figures
from rlhf.heads import response_logprobs
from rlhf.masking import masked_mean
from rlhf.policy.rollouts import Scorer, roll_out
from rlhf.policy.trainer import PolicyTrainer, adam, check_start


@dataclass(kw_only=True)
class DpoTrainer(PolicyTrainer):
    """What all trainers have, the pairs, and the reference's logprobs of them.

    Attributes:
        train_pairs: those to learn from.
        dev_pairs: those that are only measured on, as are completions sampled for their prompts.
        scorer: the reward model; it scores those completions, and nothing is learnt from it.
        ref_logprobs: log π_ref of each completion of either, in nats; computed once, and kept.
    """

    remedy = "is policy.learning_rate too small for the precision of the weights?"

    train_pairs: PairTable
    dev_pairs: PairTable
    scorer: Scorer
    ref_logprobs: tuple[Tensor, Tensor] | None = field(init=False, default=None)
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.optimizer = adam(trainable_parameters(self.policy), self.settings.learning_rate)

    @property
    def items(self) -> int:
        return len(self.train_pairs.prompts)

    def optimizers(self) -> list[tuple[torch.optim.Optimizer, float]]:
        return [(self.optimizer, self.settings.learning_rate)]

    def learn(self, rows: Sequence[int]) -> dict[str, float]:
        """A pass over the pairs of these prompts, in `minibatches` steps; the figures are means over those."""
        self.decay()
        share = math.ceil(len(rows) / self.settings.minibatches)
        steps: list[dict[str, float]] = []
        skipped: dict[str, float] = {}
        for start in range(0, len(rows), share):
            part = rows[start : start + share]
            try:
                steps.append(self.step(part))
            except NotFiniteError as error:
                skipped = self.skip(error, pairs=[pair for row in part for pair in self.texts(row)])
        return skipped | {name: sum(step[name] for step in steps) / len(steps) for name in (steps[0] if steps else ())}

    def step(self, rows: Sequence[int]) -> dict[str, float]:
        """One optimizer step on the mean loss over the pairs of these prompts.

        Raises:
            NotFiniteError: the loss or the gradient is not finite; nothing has moved then.
        """
        settings, reference = self.settings, self.reference_logprobs()[0]
        pairs = [pair for row in rows for pair in self.train_pairs.pairs[row]]
        drawn = self.generator.get_state()

        def learn(size: int) -> dict[str, float]:
            sums: dict[str, float] = {}
            for log_ratios in self.log_ratios(self.train_pairs, pairs, reference, size):
                losses = self.losses(log_ratios)
                (losses.sum() / len(pairs)).backward()
                for name, values in self.figures(log_ratios.detach(), losses.detach()).items():
                    sums[name] = sums.get(name, 0.0) + float(values.sum()) / len(pairs)
            if self.general and settings.ptx_coefficient > 0:
                sums["general_loss"] = self.learn_general(len(pairs), settings.ptx_coefficient)
            return sums

        def undo() -> None:
            self.generator.set_state(drawn)  # of which general examples are drawn
            self.optimizer.zero_grad(set_to_none=True)

        sums = self.micro.attempt(2 * len(pairs), learn, undo)
        sums["grad_norm"] = float(nn.utils.clip_grad_norm_(trainable_parameters(self.policy), settings.max_grad_norm))
        try:
            check_figures(sums)
            self.optimizer.step()
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        return sums

    def texts(self, row: int) -> list[dict[str, str]]:
        """The pairs of a prompt, for people."""
        examples, describe = self.train_pairs.examples, self.policy.describe
        return [
            {**describe(*examples[chosen]), "rejected": describe(*examples[rejected])["response"]}
            for chosen, rejected in self.train_pairs.pairs[row]
        ]

    def losses(self, log_ratios: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """The loss of each pair, by the settings."""
        dpo = self.settings.dpo
        return preference_losses(log_ratios, dpo.beta, dpo.loss, dpo.label_smoothing)

    def figures(self, log_ratios: Float[Tensor, " N"], losses: Float[Tensor, " N"]) -> dict[str, Float[Tensor, " N"]]:
        """Of each pair: the loss, by how much more β·log(π/π_ref) pays the chosen one, and whether it pays more."""
        margins = self.settings.dpo.beta * log_ratios
        return {"loss": losses, "margin": margins, "accuracy": (margins > 0).float()}

    def log_ratios(
        self, table: PairTable, pairs: Sequence[tuple[int, int]], ref_logprobs: Float[Tensor, " M"], size: int
    ) -> Iterator[Float[Tensor, " N"]]:
        """h of some pairs, so many completions at once, but two at least; a part reads each of its completions once."""
        count = max(1, size // 2)
        for start in range(0, len(pairs), count):
            part = torch.tensor(pairs[start : start + count])
            used, where = part.unique(return_inverse=True)
            logprobs = self.sequence_logprobs(table, used.tolist())
            ratios = logprobs - ref_logprobs[used].to(logprobs.device)
            chosen, rejected = where.to(ratios.device).unbind(1)
            yield ratios[chosen] - ratios[rejected]

    def sequence_logprobs(self, table: PairTable, indices: Sequence[int]) -> Float[Tensor, " M"]:
        """log π of whole completions: the sum over each one's tokens."""
        prompts, responses = zip(*(table.examples[index] for index in indices), strict=True)
        batch = make_batch(prompts, responses, self.policy.device)
        return response_logprobs(self.policy.model, batch, self.settings.temperature).sum(1)

    def reference_logprobs(self) -> tuple[Tensor, Tensor]:
        """log π_ref of all completions that are learnt from, and of those that are measured on."""
        if self.ref_logprobs is None:
            train, dev = (self._under_reference(table) for table in (self.train_pairs, self.dev_pairs))
            self.ref_logprobs = train, dev
        return self.ref_logprobs

    @torch.no_grad()
    def _under_reference(self, table: PairTable) -> Float[Tensor, " M"]:
        size, parts = self.micro.size or self.settings.prompts_per_iteration, []
        for start in range(0, len(table.examples), size):
            prompts, responses = zip(*table.examples[start : start + size], strict=True)
            batch = make_batch(prompts, responses, self.policy.device)
            parts.append(self.networks.ref_logprobs(batch).sum(1).cpu())
        return torch.cat(parts)

    def look(self) -> dict[str, float]:
        """Measures where that is due, then has the watch check the policy."""
        settings = self.settings
        due = self.iteration % settings.dpo.sample_every == 0 or self.iteration in (1, settings.iterations)
        try:
            figures = self.measure() if due else {}
        except NotFiniteError as error:
            figures = self.skip(error)
        return figures if self.stopped is not None else figures | super().look()

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """How the policy does on dev pairs, and on completions that it samples for their prompts."""
        settings, table, reference = self.settings, self.dev_pairs, self.reference_logprobs()[1]
        pairs = [pair for row in table.pairs for pair in row]
        log_ratios = self.micro.attempt(
            2 * len(pairs), lambda size: torch.cat(list(self.log_ratios(table, pairs, reference, size)))
        )
        measured = self.figures(log_ratios, self.losses(log_ratios))
        figures = {f"eval_{name}": float(values.mean()) for name, values in measured.items()}
        # The same random numbers each time, so that readings differ by the policy alone, and training by nothing.
        draw = torch.Generator().manual_seed(settings.seed)
        prompts = list(islice(cycle(table.prompts), settings.prompts_per_iteration))
        rollouts = roll_out(self.networks, self.scorer, prompts, settings, draw)
        entropy = -float(masked_mean(rollouts.logprobs, rollouts.batch.response_mask))
        figures |= rollouts.figures() | {"entropy": entropy}
        check_figures(figures)
        if self.iteration == 0:
            check_start(figures["kl"], self.policy)
        self.passes_ceiling(figures["kl"])
        return figures

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"ref_logprobs": self.ref_logprobs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.ref_logprobs = state["ref_logprobs"]
