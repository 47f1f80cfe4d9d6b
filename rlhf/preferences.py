"""From rankings to pairs: which completion is preferred to which, and the split of each prompt.

Pure functions on records; nothing here knows a tokenizer.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, permutations
from typing import NamedTuple

from rlhf.records import Pair, PromptText, Ranking, prompt_key

SPLITS = ("train", "dev", "test")
"""From the least to the most held out."""
ROLES = (*SPLITS, "judge", "any")


class RankingPairs(NamedTuple):
    """What one ranking of k completions gives: pairs + ties + duplicates = k(k−1)/2."""

    pairs: list[Pair]
    ties: int
    """Couples of completions that share a rank."""
    duplicates: int
    """Strictly ranked couples whose texts are the same."""


class SplitRankings(NamedTuple):
    """Rankings, each with the split that its pairs go to."""

    rankings: Sequence[Ranking]
    splits: list[str | None]
    """For each ranking train, dev, test or judge; None where a held-out split has its prompt."""

    @property
    def assigned(self) -> Iterator[tuple[str, Ranking]]:
        """(split, ranking), in the order they came in, without those left out."""
        return ((split, row) for split, row in zip(self.splits, self.rankings, strict=True) if split is not None)

    @property
    def leaks(self) -> int:
        """How many rankings are left out because a held-out split has their prompt."""
        return self.splits.count(None)


def pairs_of(ranking: Ranking) -> RankingPairs:
    """All strict preferences of one ranking, preferred first.

    n distinct ranks give n(n−1)/2 pairs (Ouyang et al. 2022, section 3.5). Ties give none; neither do two
    texts that are the same.

    Args:
        ranking: k completions with their ranks, 1 is best.

    Returns:
        The pairs in the order of the completions, with the counts of what gave no pair.
    """
    texts, pairs, ties, duplicates = ranking.completions, [], 0, 0
    for first, second in combinations(range(len(texts)), 2):
        if ranking.ranks[first] == ranking.ranks[second]:
            ties += 1
        elif texts[first] == texts[second]:
            duplicates += 1
        else:
            better_first = ranking.ranks[first] < ranking.ranks[second]
            pairs.append(_pair(ranking, *((first, second) if better_first else (second, first))))
    return RankingPairs(pairs, ties, duplicates)


def verdicts(ranking: Ranking) -> list[tuple[tuple[str, str, str], int]]:
    """What a ranking says of each couple of its completions, whatever the order in which they are listed.

    Returns:
        ((prompt's key, text, other text), -1 where the first is preferred, 0 of a tie, 1), texts in their order.
    """
    key = prompt_key(ranking.prompt)
    ordered = sorted(zip(ranking.completions, ranking.ranks, strict=True))
    return [
        ((key, text, other), (rank > other_rank) - (rank < other_rank))
        for (text, rank), (other, other_rank) in combinations(ordered, 2)
    ]


def _pair(ranking: Ranking, chosen: int, rejected: int) -> Pair:
    fields = {
        "prompt": ranking.prompt,
        "chosen": ranking.completions[chosen],
        "rejected": ranking.completions[rejected],
        "annotator": ranking.annotator,
        "margin": margin_of(ranking, chosen, rejected),
        "ranking": ranking.id,
    }
    if ratings := ratings_of(ranking):
        fields |= {"chosen_rating": ratings[chosen], "rejected_rating": ratings[rejected]}
    return Pair.model_validate(fields)


def rating_fault(ranking: Ranking) -> str:
    """Why the ranking's ratings cannot be used; empty where they can, or where there are none.

    They are one number per completion, and no completion that is ranked above another is rated below it: a margin is
    never negative. Of two that differ in rank the ratings may be equal.
    """
    ratings = (ranking.model_extra or {}).get("ratings")
    if ratings is None:
        return ""
    if not isinstance(ratings, list):
        return f"ratings is {ratings!r:.40}; give a list with a number for each completion"
    if len(ratings) != len(ranking.ranks):
        return f"ratings has {len(ratings)} entries for {len(ranking.ranks)} completions; give a number for each"
    for rating in ratings:
        if not _is_number(rating):
            return f"ratings holds {rating!r:.40}; give a number for each completion, or no ratings"
    for first, second in permutations(range(len(ratings)), 2):
        if ranking.ranks[first] < ranking.ranks[second] and ratings[first] < ratings[second]:
            return (
                f"completion {first + 1} has rank {ranking.ranks[first]} and rating {ratings[first]:g}, completion "
                f"{second + 1} rank {ranking.ranks[second]} and rating {ratings[second]:g}; rank 1 is best, and so is "
                "the highest rating"
            )
    return ""


def ratings_of(ranking: Ranking) -> list[float]:
    """The ranking's own field `ratings`, one number per completion, higher is better; empty without it.

    Raises:
        ValueError: there are ratings that cannot be used.
    """
    if fault := rating_fault(ranking):
        raise ValueError(f"ranking {ranking.id}: {fault}")
    return [float(rating) for rating in (ranking.model_extra or {}).get("ratings") or []]


def margin_of(ranking: Ranking, chosen: int, rejected: int) -> float:
    """By how much the chosen completion is preferred: the difference of ratings, else of ranks.

    Args:
        ranking: the ranking that holds both completions.
        chosen: index of the preferred completion.
        rejected: index of the other.

    Returns:
        rating[chosen] − rating[rejected], or rank[rejected] − rank[chosen] where there are no ratings; never negative.
    """
    if ratings := ratings_of(ranking):
        return ratings[chosen] - ratings[rejected]
    return float(ranking.ranks[rejected] - ranking.ranks[chosen])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def tied_couples(ranks: Sequence[int]) -> int:
    """How many of the k(k−1)/2 couples of completions share a rank."""
    return sum(first == second for first, second in combinations(ranks, 2))


def split_of(key: str, dev_share: float, test_share: float, seed: int) -> str:
    """The split of a prompt: a hash of the prompt and the seed, whatever else is in the data.

    With u = SHA-256(seed, prompt) mapped to [0, 1): test where u < test_share, dev where
    u < test_share + dev_share, else train. A larger test share keeps every test prompt of a smaller one.

    Args:
        key: the prompt as one string.
        dev_share: expected share of prompts in dev.
        test_share: expected share of prompts in test.
        seed: another seed is another split.

    Returns:
        "train", "dev" or "test".

    Raises:
        ValueError: the shares leave nothing to train on.
    """
    if dev_share + test_share >= 1.0:
        raise ValueError(
            f"dev_share {dev_share} and test_share {test_share} leave nothing to train on; let them sum to less than 1"
        )
    digest = hashlib.sha256(f"{seed}\n{key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < test_share:
        return "test"
    return "dev" if position < test_share + dev_share else "train"


def splits_of_prompts(prompts: Iterable[PromptText], dev_share: float, test_share: float, seed: int) -> dict[str, str]:
    """The split of each prompt, by its key: that of its text's hash.

    Forms of one prompt (other case, spaces, Unicode forms, text or chat) have hashes of their own and one key: all of
    them go where the most held-out one goes, so that a form which joins never moves a test prompt to train.

    Args:
        prompts: in any order, and as often as they come.
        dev_share: as `split_of` takes it, with its errors.
        test_share: likewise.
        seed: likewise.
    """
    splits: dict[str, str] = {}
    for prompt in prompts:
        _hold_out(splits, prompt_key(prompt), split_of(_hashed(prompt), dev_share, test_share, seed))
    return splits


def _hold_out(splits: dict[str, str], key: str, split: str) -> None:
    """Adds a form's split to those of the prompts, where the most held-out one of a prompt's forms stands."""
    splits[key] = max(split, splits.get(key, split), key=SPLITS.index)


def _hashed(prompt: PromptText) -> str:
    """The text whose hash gives a prompt its split; another one would move prompts from test to train."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn.role}: {turn.content}" for turn in prompt)


def split_rankings(
    rankings: Sequence[Ranking], dev_share: float, test_share: float, seed: int, judge_share: float = 0.0
) -> SplitRankings:
    """Assigns each ranking a split, so that all pairs of a prompt are in one.

    A ranking's own field `split` is one of train, dev, test, judge, any (`any` when absent). `any` follows
    the split that other rankings of its prompt declare, and otherwise the prompt's hash. What is held out
    stays so: a prompt of test leaves train, dev and judge; a prompt of dev leaves train and judge.

    Args:
        rankings: rows with the extra field `split`.
        dev_share: share of the prompts of `any` that go to dev.
        test_share: share of the prompts of `any` that go to test.
        seed: of the prompts' hash.
        judge_share: share of the train prompts of `any` whose rankings only the judge learns from.

    Raises:
        ValueError: a `split` is none of the five, or the shares sum to 1 or more.
    """
    keys, roles, prompt_splits, texts = [], [], dict[str, str](), dict[str, str]()
    for ranking in rankings:  # gone through once: they may be read as they are asked for
        key, text = prompt_key(ranking.prompt), _hashed(ranking.prompt)
        keys.append(key)
        roles.append(_role_of(ranking))
        _hold_out(prompt_splits, key, split_of(text, dev_share, test_share, seed))
        texts[key] = min(texts.get(key, text), text)
    for split in SPLITS:  # the most held-out one last, which then stands
        prompt_splits |= {key: split for key, role in zip(keys, roles, strict=True) if role == split}
    # A prompt that judge alone declares is not held out: the judge may share prompts with train.
    free = {key for key, role in zip(keys, roles, strict=True) if role != "judge"}
    splits: list[str | None] = []
    for key, role in zip(keys, roles, strict=True):
        split = prompt_splits[key] if role == "any" else role
        if prompt_splits[key] in ("dev", "test") and key in free and split != prompt_splits[key]:
            splits.append(None)
            continue
        # Another hash than the split's, whose low end is test already.
        for_judge = (
            role == "any" and split == "train" and split_of(f"judge {texts[key]}", 0.0, judge_share, seed) == "test"
        )
        splits.append("judge" if for_judge else split)
    return SplitRankings(rankings, splits)


def _role_of(ranking: Ranking) -> str:
    role = (ranking.model_extra or {}).get("split", "any")
    if role not in ROLES:
        raise ValueError(f"ranking {ranking.id}: split is {role!r}; expected one of {', '.join(ROLES)}")
    return sys.intern(role)  # each row read has a string of its own
