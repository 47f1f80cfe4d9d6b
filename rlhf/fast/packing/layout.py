"""Where each token of a padded batch goes.

Dimensions: B batch, P prompt tokens, T response tokens, L = P + T, S states wanted of a row, N packed tokens, U of
them whose states are wanted, M tokens of all groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

GROUP_COST = 8
"""Filler tokens that another group must save; from 4 to 32, training took equally long within 4 %."""

SHARED = 0.1
"""Prompts that rows share are read once where that saves this part of a batch's tokens; gathering costs too."""


class Group(NamedTuple):
    """Rows side by side in the packed one.

    Attributes:
        rows: how many.
        width: the length that all are filled up to.
    """

    rows: int
    width: int


class Row(NamedTuple):
    """A row of a batch.

    Attributes:
        start: of its first token in the flattened batch.
        prompt: how many tokens the prompt has.
        response: how many of the response are read.
    """

    start: int
    prompt: int
    response: int

    @property
    def length(self) -> int:
        return self.prompt + self.response


class Packing(NamedTuple):
    """Where the tokens of a padded batch stand in the packed row, and where attention has them.

    Attributes:
        source: for each packed token its position in the flattened batch.
        states: for each state that is wanted the packed token that has it.
        wanted: those tokens, each once.
        groups: of attention's rows.
        bounds: where each of attention's rows begins among the tokens of the groups, and where the last one ends.
        spread: for each token of the groups the packed one; None where they are the same.
        back: for each packed token one of the groups' that is it; None where they are the same.
    """

    source: Int[Tensor, " N"]
    states: Int[Tensor, "B S"]
    wanted: Int[Tensor, " U"]
    groups: list[Group]
    bounds: Int[Tensor, " B+1"]
    spread: Int[Tensor, " M"] | None = None
    back: Int[Tensor, " N"] | None = None


def pack(
    input_ids: Int[Tensor, "B L"],
    attention_mask: Bool[Tensor, "B L"],
    response_width: int,
    positions: Int[Tensor, "B S"],
) -> Packing:
    """Where each token goes; prompts that rows share are read once, where that saves enough.

    Args:
        input_ids: prompts, padded on the left, and responses, padded on the right.
        attention_mask: True at the tokens of either.
        response_width: T.
        positions: in a response, of what the wanted states predict: its tokens, or what would come after its end. What
            comes after the last of them, with it, is not read.
    """
    rows, owners = _rows(input_ids, attention_mask, response_width, positions)
    order = sorted(range(len(rows)), key=lambda row: rows[row].length)
    # The kernel of a GPU takes rows of any length, so that no filler saves it anything.
    group_cost = 0 if input_ids.is_cuda else GROUP_COST
    groups = group_lengths([rows[row].length for row in order], group_cost)
    widths = [group.width for group in groups for _ in range(group.rows)]
    repeated = sum(rows[row].prompt for row, owner in enumerate(owners) if owner != row)
    apart = repeated < SHARED * sum(row.length for row in rows)
    lists: Sequence[list[Any]]
    lists = _apart(rows, order, widths) if apart else _sharing(rows, owners, order, widths)
    source, before, *other = (torch.tensor(each, device=input_ids.device) for each in lists)
    # The prompt's last token predicts the first of the response, which may stand elsewhere.
    states = torch.where(positions == 0, before[:, :1], before[:, 1:] + positions - 1)
    bounds = torch.tensor([0, *accumulate(widths)], dtype=torch.int32, device=input_ids.device)
    return Packing(source, states, states.unique(), groups, bounds, *other)


def _rows(
    input_ids: Int[Tensor, "B L"],
    attention_mask: Bool[Tensor, "B L"],
    response_width: int,
    positions: Int[Tensor, "B S"],
) -> tuple[list[Row], list[int]]:
    """Each row, and the first that has its prompt."""
    columns, start = input_ids.shape[1], input_ids.shape[1] - response_width
    lengths = zip(attention_mask[:, :start].sum(1).tolist(), positions.amax(1).tolist(), strict=True)
    rows = [Row(row * columns + start - prompt, prompt, response) for row, (prompt, response) in enumerate(lengths)]
    first_with: dict[tuple[int, ...], int] = {}
    prompts = (tuple(ids[start - row.prompt :]) for ids, row in zip(input_ids[:, :start].tolist(), rows, strict=True))
    return rows, [first_with.setdefault(prompt, row) for row, prompt in enumerate(prompts)]


def _apart(rows: Sequence[Row], order: Sequence[int], widths: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """The packed row is attention's rows, filler and all: the last token of each again."""
    source: list[int] = []
    before = [[0, 0]] * len(rows)
    for row, width in zip(order, widths, strict=True):
        start, length = rows[row].start, rows[row].length
        response = len(source) + rows[row].prompt
        before[row] = [response - 1, response]
        source += [*range(start, start + length), *[start + length - 1] * (width - length)]
    return source, before


def _sharing(
    rows: Sequence[Row], owners: Sequence[int], order: Sequence[int], widths: Sequence[int]
) -> tuple[list[int], list[list[int]], list[int], list[int]]:
    """The packed row has each prompt once, before the response of the first row that has it, and no filler."""
    source: list[int] = []
    prompts, responses = [0] * len(rows), [0] * len(rows)
    for row, (start, prompt, response) in enumerate(rows):
        prompts[row] = len(source) if owners[row] == row else prompts[owners[row]]
        source += range(start, start + prompt) if owners[row] == row else ()
        responses[row] = len(source)
        source += range(start + prompt, start + prompt + response)
    spread: list[int] = []
    back = [0] * len(source)
    for row, width in zip(order, widths, strict=True):
        tokens = [
            *range(prompts[row], prompts[row] + rows[row].prompt),
            *range(responses[row], responses[row] + rows[row].response),
        ]
        for number, token in enumerate(tokens, len(spread)):
            back[token] = number
        spread += [*tokens, *tokens[-1:] * (width - len(tokens))]
    before = [[prompts[row] + rows[row].prompt - 1, responses[row]] for row in range(len(rows))]
    return source, before, spread, back


def group_lengths(lengths: Sequence[int], group_cost: int = GROUP_COST) -> list[Group]:
    """The cheapest groups of rows in ascending order of length: filler tokens plus a cost for each group.

    Dynamic programming over the distinct lengths: the best way to end a group at each of them.
    """
    counts: dict[int, int] = {}
    for length in lengths:
        counts[length] = counts.get(length, 0) + 1
    steps = list(counts.items())
    best: list[tuple[int, list[Group]]] = [(0, [])]
    for end in range(1, len(steps) + 1):
        width, rows, tokens = steps[end - 1][0], 0, 0
        options = []
        for start in range(end - 1, -1, -1):
            length, count = steps[start]
            rows, tokens = rows + count, tokens + count * length
            options.append((best[start][0] + group_cost + rows * width - tokens, start, Group(rows, width)))
        cost, start, group = min(options)
        best.append((cost, [*best[start][1], group]))
    return best[-1][1]
