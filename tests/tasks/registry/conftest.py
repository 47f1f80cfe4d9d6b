"""Registries to begin with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.paths import Paths
from tasks.registry import versions
from tasks.tracking import mlflow_store

NAME = "nightjar"


@pytest.fixture
def register_policies(tracked: Paths) -> Callable[[int, int], Any]:
    """Registers so many policies, each with the reward model of its number; so many followed each other as champion.

    It returns the client; no version has an alias yet.
    """

    def register(count: int, champions: int) -> Any:
        client = mlflow_store.open_client(tracked)
        for kind in versions.KINDS:
            client.create_registered_model(f"{NAME}-{kind}")
            for _ in range(count):
                client.create_model_version(f"{NAME}-{kind}", "file:///nowhere")
        for number in range(1, count + 1):
            versions.tag(client, f"{NAME}-policy", number, {"reward_version": str(number)})
        for number in range(2, champions + 1):
            versions.tag(client, f"{NAME}-policy", number, {"champion_before": str(number - 1)})
        return client

    return register
