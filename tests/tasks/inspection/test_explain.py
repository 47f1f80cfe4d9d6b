"""`nightjar explain`: the figures are the sampler's, the text needs no colour, and pages run nothing of a model's."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlhf.records import Sampling
from rlhf.settings.model import ModelSettings
from tasks.files import write_text
from tasks.inspection.explain import Bar, ExplainedToken, Explanation, Prediction, Question, explain
from tasks.inspection.explain_page import explanation_page
from tasks.inspection.explain_picture import write_picture
from tasks.inspection.explain_text import drawn, percent, show
from tasks.paths import Paths
from tests.tasks.html_page import Page

CONTROLS = Sampling(temperature=0.7, top_k=20, top_p=0.9, repetition_penalty=1.2, max_new_tokens=4)
MODEL = ModelSettings(config={"model_type": "llama"}, device="cpu", threads=1)
SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
}
BARS = [Bar("[bold]x", [0.6, 0.75], False), Bar("<script>", [0.2, 0.25], True), Bar("$a$", [0.2, 0.0], False)]
HOSTILE = Explanation(
    "p <1> [red]",
    "a & b",
    [
        ExplainedToken(
            "", "<script>", [Prediction("m<1>", ["raw", "top-k 2"], BARS, entropies=[0.95, 0.56], cuts=[0.0, 0.2])]
        )
    ],
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A workspace with two untrained models of one tokenizer, and a folder `other` with another vocabulary."""
    from rlhf.models import build_policy, save_policy
    from rlhf.tokenizers import train_tokenizer

    paths = Paths(tmp_path_factory.mktemp("explained"))
    tokenizer = train_tokenizer(["name = Blue House, food = Thai", "The Blue House serves Thai food."], 300)
    for seed, name in enumerate(("sft", "policy")):
        save_policy(build_policy({**SHAPE, "max_position_embeddings": 64}, tokenizer, seed), paths.models / name)
    strange = train_tokenizer(["quite other words, quite other merges"], 310)
    save_policy(build_policy({**SHAPE, "max_position_embeddings": 64}, strange, 0), paths.root / "other")
    return paths


def question(**changes: Any) -> Question:
    given: dict[str, Any] = {"prompt": "name = Blue House", "models": ("sft", "policy"), "follow": "policy"}
    return Question(**{**given, "sampling": CONTROLS, **changes})


def test_both_models_read_the_text_that_the_followed_one_samples(workspace: Paths) -> None:
    """The chosen tokens are what the sampler draws of that model with that seed; each model has a reading per step."""
    from rlhf.explain import readable_token
    from rlhf.generation import sample
    from rlhf.models import load_policy

    texts = set()
    for name in ("sft", "policy"):
        policy = load_policy(workspace.models / name, MODEL)
        samples = sample(policy, [policy.encode_prompt("name = Blue House")], [CONTROLS], [5])
        expected = [readable_token(policy, token) for token in samples.tokens[0, : int(samples.lengths[0])].tolist()]
        explanation = explain(workspace, question(follow=name, seed=5), MODEL)
        assert [step.chosen for step in explanation.steps] == expected
        assert [step.before for step in explanation.steps] == [
            "".join(expected[:place]) for place in range(len(expected))
        ]
        assert explanation.how.startswith(f"{name} writes, sampled with seed 5; ")
        for step in explanation.steps:
            assert [prediction.model for prediction in step.predictions] == ["sft", "policy"]
            for prediction in step.predictions:
                assert [bar.token for bar in prediction.bars if bar.chosen] == [step.chosen]
            assert step.predictions[0].bars != step.predictions[1].bars
        texts.add("".join(expected))
    assert len(texts) == 2


def test_the_likeliest_tokens_are_shown_in_falling_order(workspace: Paths) -> None:
    """The top 3 at any stage and the chosen one, by their raw probability; a title for each control that is on."""
    from rlhf.explain import trace
    from rlhf.models import load_policy

    policy = load_policy(workspace.models / "sft", MODEL)
    explanation = explain(workspace, question(models=("sft",), follow="sft", top=3), MODEL)
    prompt = policy.encode_prompt("name = Blue House")
    [prediction] = explanation.steps[0].predictions
    assert prediction.stages == ["raw", "repetition penalty 1.2", "temperature 0.7", "top-k 20", "top-p 0.9"]
    assert 3 <= len(prediction.bars) <= 4
    raw = [bar.probabilities[0] for bar in prediction.bars]
    assert raw == sorted(raw, reverse=True)
    stages = trace(policy, prompt, [0], CONTROLS)[0]
    best = max(float(stage.probabilities.max()) for stage in stages)
    assert max(max(bar.probabilities) for bar in prediction.bars) == pytest.approx(best, abs=1e-6)
    assert prediction.entropies == pytest.approx([stage.entropy for stage in stages], abs=1e-5)
    assert prediction.cuts == pytest.approx([stage.cut for stage in stages], abs=1e-6)


def test_tokens_that_a_filter_cut_are_still_shown(workspace: Paths) -> None:
    """Of the three likeliest two are cut by top-k 1, and stand there with what they had."""
    sampling = Sampling(top_k=1, max_new_tokens=1)
    explanation = explain(workspace, question(models=("sft",), follow="sft", top=3, sampling=sampling), MODEL)
    [prediction] = explanation.steps[0].predictions
    assert [bar.probabilities[1] for bar in prediction.bars] == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)
    assert min(bar.probabilities[0] for bar in prediction.bars) > 0.01
    assert prediction.cuts[1] == pytest.approx(1 - prediction.bars[0].probabilities[0], abs=1e-6)


def test_a_model_that_was_not_made_names_the_command_that_makes_it(workspace: Paths, tmp_path: Path) -> None:
    """The policy by its stage, as for SFT; before any model loads."""
    paths = Paths(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"data/models/sft: no such model yet; make it with: nightjar stage sft"
    ):
        explain(paths, question(), MODEL)
    shutil.copytree(workspace.models / "sft", paths.models / "sft")
    with pytest.raises(FileNotFoundError, match="nightjar stage policy"):
        explain(paths, question(), MODEL)


def test_what_cannot_be_explained_is_refused(workspace: Paths) -> None:
    """A followed model that is not shown, two vocabularies, and a prompt that leaves no room in the context."""
    with pytest.raises(ValueError, match="found follow best; give one of the models shown: sft, policy"):
        explain(workspace, question(follow="best"), MODEL)
    other = str(workspace.root / "other")
    with pytest.raises(ValueError, match="have different vocabularies"):
        explain(workspace, question(models=("sft", other), follow="sft"), MODEL)
    with pytest.raises(ValueError, match=r"the model's context is 64; lower max_new_tokens or shorten"):
        explain(workspace, question(prompt="Blue House, " * 40), MODEL)


def text_of(explanation: Explanation, width: int) -> list[str]:
    """What a terminal without colour shows."""
    screen = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    show(explanation, screen)
    file = screen.file
    assert isinstance(file, io.StringIO)
    assert "\x1b" not in file.getvalue()
    return file.getvalue().splitlines()


def test_the_text_tells_the_chosen_token_and_the_figures_without_colour() -> None:
    """A mark, a bar and a percentage in each row, a dash for what was cut; markup of a token is text."""
    lines = [" ".join(line.split()) for line in text_of(HOSTILE, 100)]
    assert "prompt p <1> [red]" in lines
    assert "[bold]x ████▊ 60.0 % ██████ 75.0 %" in lines
    assert "▸ <script> █▋ 20.0 % ██ 25.0 %" in lines
    assert "$a$ █▋ 20.0 % –" in lines
    assert "entropy, nats 0.95 0.56" in lines
    assert "mass cut – 20.0 %" in lines
    assert "written <script>" in lines


def test_control_characters_are_shown_in_the_text_and_on_the_page() -> None:
    """Of a prompt, of tokens and of names; neither a terminal nor a browser is sent one."""
    bars = [Bar("\x1b[31m", [1.0], True)]
    steps = [ExplainedToken("a\x9b", "\x1b[31m", [Prediction("m\x07", ["raw"], bars, [0.0], [0.0])])]
    explanation = Explanation("p\r\x1b]0;x", "how", steps)
    text, page = "\n".join(text_of(explanation, 100)), explanation_page(explanation)
    for shown in (r"p\r\x1b]0;x", r"\x1b[31m", r"a\x9b", r"m\x07"):
        assert shown in text
        assert shown in page
    assert not [character for character in text + page if character < " " and character != "\n"]


def test_models_stand_side_by_side_where_there_is_room(workspace: Paths) -> None:
    """In a wide terminal their titles share a line; in a narrow one they stand below each other."""
    explanation = explain(workspace, question(sampling=Sampling(top_k=5, max_new_tokens=1)), MODEL)
    titles = [[line.split() for line in text_of(explanation, width) if "sft" in line.split()] for width in (160, 80)]
    assert [found[-1] for found in titles] == [["sft", "policy"], ["sft"]]


def test_bars_and_percentages_are_to_scale() -> None:
    """A bar of eight characters is probability 1; half an eighth of a character is not shown; 0 is a dash."""
    assert [drawn(value) for value in (0.0, 1.0, 0.5, 1 / 64)] == [" " * 8, "█" * 8, "████    ", "▏       "]
    assert [percent(value) for value in (0.0, 1e-5, 0.0005, 0.62125, 1.0)] == [
        "–",
        "<.1 %",
        "0.1 %",
        "62.1 %",
        "100.0 %",
    ]


def test_the_page_shows_every_text_runs_none_and_needs_no_other_file(tmp_path: Path) -> None:
    """Tokens and names are text; links lead to the page's own sections; light and dark; same bytes twice."""
    page = Page(explanation_page(HOSTILE))
    assert "script" not in page.tags
    for text in ("p <1> [red]", "a & b", "m<1>", "<script>", "[bold]x", "60.0 %", "0.95", "top-k 2"):
        assert text in page.texts
    assert page.given("href") == ["#step-1"]
    assert page.given("id") == ["step-1"]
    assert "prefers-color-scheme: dark" in explanation_page(HOSTILE)
    for name in ("a.html", "b.html"):
        write_text(tmp_path / name, explanation_page(HOSTILE))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_picture_is_a_png_also_of_tokens_with_dollars(tmp_path: Path) -> None:
    """Same bytes twice; the cut token's second bar, made longer, is another picture; `$` is no formula."""
    write_picture(tmp_path / "a.png", HOSTILE)
    write_picture(tmp_path / "b.png", HOSTILE)
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    [step] = HOSTILE.steps
    [prediction] = step.predictions
    for name, token, last in (("c.png", "$a$", 0.25), ("d.png", "$\\nosuch{$", 0.0)):
        bars = [*prediction.bars[:2], Bar(token, [0.2, last], False)]
        write_picture(
            tmp_path / name, HOSTILE._replace(steps=[step._replace(predictions=[prediction._replace(bars=bars)])])
        )
        assert (tmp_path / name).read_bytes() != content
