"""Registered versions with the table versions that they were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jobs.config import Recipe
from jobs.errors import ConfigError
from jobs.tracking import READ_PARAM, registry


@dataclass(frozen=True)
class Trained:
    """A registered version, and the table versions that it was trained on."""

    name: str
    version: str
    inputs: dict[str, int]


def trained_versions(recipe: Recipe, home: str) -> list[Trained]:
    """Every registered version of a recipe's family.

    Raises:
        ConfigError: The run of one does not say which versions it read.
    """
    client = registry(recipe, home)
    if client is None:
        return []
    experiment = client.get_experiment_by_name(recipe.contract.name)
    found: list[Trained] = []
    token = None
    while experiment is not None:
        page = client.search_model_versions(max_results=1000, page_token=token)
        for version in page:
            run = client.get_run(version.run_id) if version.run_id else None
            if run is None or run.info.experiment_id != experiment.experiment_id:
                continue
            params = run.data.params
            inputs = {
                key.removeprefix(READ_PARAM): int(value)
                for key, value in params.items()
                if key.startswith(READ_PARAM) and value != "None"
            }
            if not inputs:
                raise ConfigError(
                    f"{version.name} version {version.version}: its run {version.run_id} does not "
                    f"say which table versions it read ({READ_PARAM}<table>); found no such "
                    "parameter; "
                    "log them there, or delete the version from the registry"
                )
            found.append(Trained(version.name, str(version.version), inputs))
        token = page.token
        if not token:
            break
    return found


def tag_trained(recipe: Recipe, home: str, trained: Trained, tags: Mapping[str, str]) -> None:
    """Say something of a registered version outside of its retrain."""
    client = registry(recipe, home)
    assert client is not None, "who found a version has found its registry"
    for key, value in tags.items():
        client.set_model_version_tag(trained.name, trained.version, key, value)
