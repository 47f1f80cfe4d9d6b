"""Where a result came from: digests as DVC's, params as flat names."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.settings.policy import KlSettings
from rlhf.settings.rollouts import RolloutSettings
from tasks import digests
from tasks.paths import Paths
from tasks.versioning import provenance


def test_digests_are_those_of_dvc(tmp_path: Path) -> None:
    """For a file, and for a folder whose names sort otherwise as paths than as texts."""
    from dvc.repo import Repo

    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for name, content in {"b.txt": "x\r\n", "sub/a.txt": "é", "sub-x": "", "B": "upper", "é": "x"}.items():
        (folder / name).write_bytes(content.encode())
    (tmp_path / "one.json").write_bytes(b"{}")
    repo = Repo.init(str(tmp_path), no_scm=True)
    for name in ("model", "one.json"):
        (stage,) = repo.add(str(tmp_path / name))
        assert digests.digest(tmp_path / name) == stage.outs[0].hash_info.value


def test_a_missing_path_has_no_digest(tmp_path: Path) -> None:
    """One alone is an error that names it; among many it is left out."""
    with pytest.raises(FileNotFoundError, match=r"absent: no such file or folder; run the stage"):
        digests.digest(tmp_path / "absent")
    (tmp_path / "there").write_bytes(b"")
    # The md5 of no bytes, as RFC 1321 gives it.
    assert provenance.digests(Paths(tmp_path), ["there", "absent"]) == {"there": "d41d8cd98f00b204e9800998ecf8427e"}


def test_settings_become_flat_names() -> None:
    """Nested groups and lists are numbered and dotted; an empty list and null stay visible."""
    settings = RolloutSettings.model_validate({"sampling": [{"temperature": 0.5}, {"top_k": 5}]})
    flat = provenance.flatten(settings, "rollouts")
    assert flat["rollouts.sampling.0.temperature"] == "0.5"
    assert flat["rollouts.sampling.1.top_k"] == "5"
    assert flat["rollouts.max_prompts"] == "null"
    kl = provenance.flatten(KlSettings(), "policy.kl")
    assert (kl["policy.kl.in"], kl["policy.kl.estimator"]) == ("reward", "k1")
    assert provenance.flatten({"files": []}, "rank") == {"rank.files": "[]"}
