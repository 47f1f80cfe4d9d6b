"""The floor: what the machine cannot do faster, as operations over its matrix rate and bytes over its bandwidth.

Counted are the operations of real tokens alone. With N the parameters in the layers' matrices, a the width of
attention, V the vocabulary and d the width of the states, in floating-point operations:
- layers over a sequence of n tokens: 2·N·n, and 2·a·n·(n + 1) a layer for attention to itself and what came before;
- the head on r tokens: 2·d·V·r, and only where a token is predicted or sampled;
- a backward pass: twice its forward;
- a decoding step reads every weight and every row's cache once, which may take longer than its operations.
Norms, activations, softmax and optimizers are not counted. Every layer counts for every token, as is usual, though the
last one need only give keys and values where nothing is asked of it: ten of twelve parts of its matrices in GPT-2. At
four layers that is 7 % where a third is prompt, and up to 21 % where a reward model asks for one state a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.benchmarks import shapes
from tests.benchmarks.shapes import SHAPES, Work
from tests.benchmarks.worker import Job, Turns


@dataclass(frozen=True)
class Rates:
    """What the machine reached: floating-point operations per second, bytes per second, and bytes of a number."""

    flops: float
    bandwidth: float
    itemsize: int = 4


@dataclass(frozen=True)
class Network:
    """The sizes of a decoder that its operations follow from.

    Attributes:
        layers: how many.
        matrices: parameters in the matrices of all layers.
        attention: width of all heads together.
        cache: width of keys and values of a token in a layer.
        head: parameters of the head.
    """

    layers: int
    matrices: int
    attention: int
    cache: int
    head: int

    def forward(self, sequences: Sequence[int]) -> float:
        """Operations of the layers over sequences of these lengths."""
        own = sum(2 * self.matrices * n for n in sequences)
        return own + self.layers * sum(2 * self.attention * n * (n + 1) for n in sequences)

    def predict(self, tokens: float) -> float:
        """Operations of the head on so many tokens."""
        return 2 * self.head * tokens

    def decode(self, prompts: Sequence[int], alive: Sequence[float], rates: Rates) -> float:
        """Seconds for prompts of these lengths, read at once, and a step for each entry of `alive`.

        Args:
            prompts: lengths.
            alive: the share of rows that each step still writes, the first one right after the prompts.
            rates: of the machine.
        """
        count, total = len(prompts), sum(prompts)
        seconds = (self.forward(prompts) + self.predict(count)) / rates.flops
        for step, share in enumerate(alive[1:], 1):
            rows, context = count * share, (total + count * step) * share
            flops = 2 * (self.matrices + self.head) * rows + self.layers * 4 * self.attention * context
            read = (self.matrices + self.head + self.layers * self.cache * context) * rates.itemsize
            seconds += max(flops / rates.flops, read / rates.bandwidth)
        return seconds


def network_of(shape: str) -> Network:
    """The sizes of a shape of the GPT-2 or the Llama family."""
    made = SHAPES[shape]
    config = made.config
    if config["model_type"] == "gpt2":
        width, layers = config["n_embd"], config["n_layer"]
        return Network(layers, 12 * width**2 * layers, width, 2 * width, width * made.vocab_size)
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    matrices = 2 * width**2 + 2 * width * keys + 3 * width * config["intermediate_size"]
    return Network(layers, matrices * layers, width, 2 * keys, width * made.vocab_size)


def tokens(work: Work, kind: str) -> float:
    """Real tokens of a repetition: those that are sampled, or those that are trained on, prompts included."""
    if kind in ("ppo", "lora", "sampling"):
        return work.rows * sum(_alive(work))
    if kind == "sft":
        return sum(len(prompt) + len(response) for prompt, response in shapes.demonstrations(work))
    return sum(
        len(prompt) + len(completion) for prompt, completions in shapes.rankings(work) for completion in completions
    )


def seconds(work: Work, kind: str, rates: Rates, critic: str = "network") -> float:
    """The floor of one repetition.

    Args:
        work: what is done.
        kind: sft, reward, ppo, lora or sampling.
        rates: of the machine.
        critic: of PPO: a network of its own, or a head.
    """
    kinds = {"sft": _sft, "reward": _reward, "ppo": _ppo, "lora": _lora, "sampling": _sampling}
    return kinds[kind](work, rates, critic)


def _sft(work: Work, rates: Rates, critic: str) -> float:
    """Each row is read but for its last token; the head predicts its response."""
    network, rows = network_of(work.shape), shapes.demonstrations(work)
    forward = network.forward([len(prompt) + len(response) - 1 for prompt, response in rows])
    return 3 * (forward + network.predict(sum(len(row.response) for row in rows))) / rates.flops


def _reward(work: Work, rates: Rates, critic: str) -> float:
    """Each prompt is read once, and each completion of its ranking after it."""
    network, operations = network_of(work.shape), 0.0
    for prompt, completions in shapes.rankings(work):
        alone = network.forward([len(prompt)])
        operations += alone + sum(network.forward([len(prompt) + len(each)]) - alone for each in completions)
    return 3 * operations / rates.flops


def _sampling(work: Work, rates: Rates, critic: str) -> float:
    return network_of(work.shape).decode(list(map(len, shapes.prompts(work))), _alive(work), rates)


def _ppo(work: Work, rates: Rates, critic: str) -> float:
    """Sampling with its logprobs, values by a head on its states, or a pass of the critic; a pass of the reference and
    of the reward model; then the epochs."""
    network, length = network_of(work.shape), sum(_alive(work))
    prompts = list(map(len, shapes.prompts(work)))
    trunk = network.forward([round(prompt + length - 1) for prompt in prompts])
    head, reward = network.predict(work.rows * length), network.forward([round(prompt + length) for prompt in prompts])
    trunks = 2 if critic == "network" else 1
    passes = trunk * trunks + head + reward + 3 * work.epochs * (trunk * trunks + head)
    return network.decode(prompts, _alive(work), rates) + passes / rates.flops


def _lora(work: Work, rates: Rates, critic: str) -> float:
    """As PPO with a head for a critic and a rule for a scorer; frozen weights take no gradient, so that a backward pass
    costs as much as its forward. The adapter's own products are not counted."""
    network, length = network_of(work.shape), sum(_alive(work))
    prompts = list(map(len, shapes.prompts(work)))
    forward = network.forward([round(prompt + length - 1) for prompt in prompts]) + network.predict(work.rows * length)
    passes = 2 * forward + 2 * work.epochs * forward
    return network.decode(prompts, _alive(work), rates) + passes / rates.flops


def _alive(work: Work) -> list[float]:
    """The share of rows that each step of sampling is expected to write."""
    return [(1.0 - (work.stop or 0.0)) ** step for step in range(work.new_tokens)]


def machine(job: Job, turn: Turns) -> None:
    """Measures the machine in a race: the product of square matrices by each library, and the reading of as many bytes
    as the model's weights have; on a GPU of more, or copying them."""
    import torch

    dtype = getattr(torch, job.dtype)
    network, on_gpu = network_of(job.work.shape), job.device != "cpu"
    # A GPU's cache would hold a small model's weights, and a launch would take longer than reading them.
    weights = 2**29 if on_gpu else network.matrices + network.head
    read = torch.randn(weights // 1024, 1024, device=job.device, dtype=dtype)
    vector = torch.randn(1024, device=job.device, dtype=dtype)
    nbytes = read.numel() * read.element_size()
    size = 8192 if on_gpu else 1536
    target = torch.empty_like(read) if on_gpu else read
    left, right = (torch.randn(size, size, device=job.device, dtype=dtype) for _ in range(2))
    with torch.no_grad():
        turn()
        while True:
            rates = {"bandwidth": nbytes / min(_times(lambda: torch.mv(read, vector), 0.1))}
            if on_gpu:  # whose product with a vector may not reach what a copy does
                copying = 2 * nbytes / min(_times(lambda: target.copy_(read), 0.1))
                rates["bandwidth"] = max(rates["bandwidth"], copying)
            for name, product in _products(job.device).items():
                rates[name] = 2 * size**3 / min(_times(partial(product, left, right), 0.2))
            turn(**rates)


def _products(device: str) -> dict[str, Callable[[Any, Any], Any]]:
    """x·Wᵀ by the libraries that torch has for it."""
    import torch

    if device != "cpu":
        return {"cublas": torch.nn.functional.linear}
    products: dict[str, Callable[[Any, Any], Any]] = {"mkl": torch.nn.functional.linear}
    if torch.backends.mkldnn.is_available():
        products["onednn"] = lambda x, w: torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
    return products


def _times(call: Callable[[], Any], budget: float) -> Iterator[float]:
    """Seconds of calls, until they have used the budget up; at least three."""
    import torch

    end, count = time.perf_counter() + budget, 0
    while count < 3 or time.perf_counter() < end:
        begun = time.perf_counter()
        call()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        yield time.perf_counter() - begun
        count += 1
