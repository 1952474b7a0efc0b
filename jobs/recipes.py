"""Recipes: named, complete settings of a retrain. A recipe derives from another by a few changes.

`RECIPES` lists them; `jobs.resolve_config --recipe NAME` chooses one.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from jobs.config import REPOSITORY, Gates, Recipe, Resources, Timeline, Windows, lapidary_home
from jobs.contract import load_contract
from jobs.errors import ConfigError
from jobs.named_networks import NETWORKS, Size
from jobs.representation_settings import UserVectorReading, UserVectors
from jobs.training_settings import Network, Student, Training, Trial
from model.interaction.config import WukongConfig

# A JVM that lives for a minute: its thorough compiler would cost more than it gains.
_SMALL_LOG = Resources(spark_java_options="-XX:+UseSerialGC -XX:TieredStopAtLevel=1")


def kuairand() -> Recipe:
    """Retrain on the bundled log, ten days of KuaiRand-Pure.

    Command: `make retrain`. Expected: see RESULTS.md.
    """
    return Recipe(
        name="kuairand",
        contract=load_contract(REPOSITORY / "infra" / "contracts" / "kuairand.yaml"),
        log_uri=str(REPOSITORY / "infra" / "logs" / "kuairand_pure"),
        timeline=Timeline(num_events=128),
        teacher=Training(
            network=Network(
                width=32,
                table_dim=16,
                num_dense_tokens=6,
                dense_hidden=128,
                interaction=WukongConfig(
                    num_layers=2, num_fm_tokens=8, num_lcb_tokens=8, rank=8, mlp_hidden=(128,)
                ),
                head_hidden=(64,),
            ),
            batch_size=512,
            trials=(Trial(lr_dense=2e-3, lr_sparse=1e-1),),
        ),
        domain_student=Student(training=_small(width=16, batch_size=256)),
        vertical_student=Student(training=_small(width=16, batch_size=128)),
        resources=_SMALL_LOG,
    )


def gem() -> Recipe:
    """Retrain on the bundled log in the whole GEM form, as a family of its own.

    The teacher has cross-layer attention, an upstream over the whole timeline, and InterFormer
    around its Wukong layers. The upstream writes vectors of users, anew after every event of high
    value; students read them beside a short history of their own.

    Command: `make retrain RECIPE=gem`. Expected: see RESULTS.md.
    """
    base = kuairand()
    return base.model_copy(
        update={
            "name": "gem",
            "contract": base.contract.model_copy(update={"name": "kuairand_gem"}),
            "teacher": base.teacher.model_copy(update={"network": NETWORKS["gem"](Size())}),
            "domain_student": _with_user_vector(base.domain_student),
            "vertical_student": _with_user_vector(base.vertical_student),
            "user_vectors": UserVectors(
                high_value_events=tuple(base.contract.tasks["engage"].outcomes)
            ),
        }
    )


def _with_user_vector(student: Student) -> Student:
    network = student.training.network.model_copy(update={"num_events": 32})
    training = student.training.model_copy(update={"network": network})
    return student.model_copy(
        update={"training": training, "user_vector": UserVectorReading(num_tokens=2)}
    )


def simulated() -> Recipe:
    """Retrain on the log that `jobs.simulate_log` writes below `LAPIDARY_HOME`.

    One impression in seventy converts, days after it was shown: steps are smaller and averages
    longer than on the bundled log, and a first run reads two weeks.

    Command: `make up LOG=simulated`, then the schedule. Expected: see RESULTS.md.
    """
    base = kuairand()
    return base.model_copy(
        update={
            "name": "simulated",
            "contract": load_contract(REPOSITORY / "infra" / "contracts" / "simulated.yaml"),
            "log_uri": str(lapidary_home() / "logs" / "simulated"),
            "windows": Windows(bootstrap_days=14),
            "teacher": _for_rare_outcomes(base.teacher),
            "domain_student": _student_for_rare_outcomes(base.domain_student),
            "vertical_student": _student_for_rare_outcomes(base.vertical_student),
        }
    )


def _for_rare_outcomes(training: Training) -> Training:
    trials = tuple(t.model_copy(update={"lr_dense": t.lr_dense / 2}) for t in training.trials)
    return training.model_copy(update={"trials": trials, "average_rows": 64_000})


def _student_for_rare_outcomes(student: Student) -> Student:
    return student.model_copy(update={"training": _for_rare_outcomes(student.training)})


def world() -> Recipe:
    """Retrain on the frozen world of three platforms, a million impressions in twenty days.

    Command: `python -m jobs.simulate_log --preset world-3`, then `python -m jobs.run_local --recipe
    world --day 2026-01-20`. Expected: no click NE of that day below 0.816 (blue), 0.790 (violet) or
    0.817 (amber), the Bayes floors; see `tests/bench/bench_world.py`.
    """
    base = simulated()
    return base.model_copy(
        update={
            "name": "world",
            "contract": load_contract(REPOSITORY / "infra" / "contracts" / "world.yaml"),
            "log_uri": str(lapidary_home() / "logs" / "world-3"),
        }
    )


def tiny() -> Recipe:
    """Few days of the bundled log and the smallest models, for tests.

    Command: `python -m jobs.run_local --recipe tiny --day 2022-05-03`. Expected: about a minute.
    """
    base = kuairand()
    return base.model_copy(
        update={
            "name": "tiny",
            "contract": base.contract.model_copy(update={"first_day": date(2022, 4, 30)}),
            "timeline": Timeline(num_events=32),
            "teacher": _small(width=16, batch_size=256),
            "windows": Windows(baseline_days=2),
            # Models this small differ from their twins by chance.
            "gates": Gates(num_resamples=100, disabled_checks=("family.twins.twin_joint_low",)),
            "resources": _SMALL_LOG.model_copy(update={"num_workers": 1}),
        }
    )


def _small(width: int, batch_size: int) -> Training:
    return Training(
        network=Network(
            width=width,
            table_dim=8,
            num_dense_tokens=4,
            dense_hidden=32,
            interaction=WukongConfig(
                num_layers=1, num_fm_tokens=4, num_lcb_tokens=4, rank=4, mlp_hidden=(32,)
            ),
            head_hidden=(16,),
            num_events=32,
        ),
        batch_size=batch_size,
        trials=(Trial(lr_dense=2e-3, lr_sparse=1e-1),),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (kuairand, gem, simulated, world, tiny)
}


def named_recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        ConfigError: No such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(f"--recipe: unknown recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()
