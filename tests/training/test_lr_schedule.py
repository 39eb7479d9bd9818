"""src/training/lr_schedule.py, and schedules from the configuration."""
import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.training import engine
from src.training.lr_schedule import CosineDecay, MultiDecay, PolyDecay
from src.training.optimizer import build_schedule


def rates(schedule, steps):
    return [float(schedule(Tensor([step], ms.int32)).asnumpy()) for step in steps]


def test_multi_decay():
    schedule = MultiDecay(5e-4, 10, [90, 120], factor=10, warmup_steps=4)
    np.testing.assert_allclose(
        rates(schedule, [0, 1, 3, 4, 899, 900, 1199, 1200, 5000]),
        [1.25e-4, 2.5e-4, 5e-4, 5e-4, 5e-4, 5e-5, 5e-5, 5e-6, 5e-6], rtol=1e-5,
    )


@pytest.mark.slow
def test_poly_decay():
    schedule = PolyDecay(5e-4, 5e-7, 100, power=5.0, warmup_steps=0)
    expected = [5e-7 + (5e-4 - 5e-7) * (1 - step / 100) ** 5 for step in (0, 10, 50, 99, 100)] + [5e-7]
    np.testing.assert_allclose(rates(schedule, [0, 10, 50, 99, 100, 200]), expected, rtol=1e-4)
    warm = PolyDecay(5e-4, 5e-7, 100, power=1.0, warmup_steps=10)
    assert rates(warm, [0])[0] == pytest.approx(5e-5, rel=1e-4)


@pytest.mark.slow
def test_cosine_decay():
    schedule = CosineDecay(5e-4, 1e-4, 100)
    expected = [1e-4 + 4e-4 * (1 + math.cos(math.pi * min(step, 100) / 100)) / 2 for step in (0, 25, 50, 99, 100, 300)]
    np.testing.assert_allclose(rates(schedule, [0, 25, 50, 99, 100, 300]), expected, rtol=1e-4)
    assert rates(CosineDecay(5e-4, 0.0, 100, warmup_steps=10), [0])[0] == pytest.approx(5e-5, rel=1e-4)


@pytest.mark.slow
def test_schedules_follow_the_configuration(make_config):
    multi = make_config("--train_config.MultiDecay.multi_epochs", "[2]", "--train_config.MultiDecay.warmup_steps", 0,
                        "--train_config.MultiDecay.factor", 4, "--train_config.MultiDecay.learning_rate", 0.8)
    np.testing.assert_allclose(rates(build_schedule(multi.train_config, 10, 5), [19, 20]), [0.8, 0.2], rtol=1e-5)
    poly = make_config("--train_config.lr_schedule", "PolyDecay", "--train_config.PolyDecay.end_learning_rate", 0.1,
                       "--train_config.PolyDecay.learning_rate", 0.5, "--train_config.PolyDecay.power", 1,
                       "--train_config.PolyDecay.warmup_steps", 0)
    np.testing.assert_allclose(rates(build_schedule(poly.train_config, 10, 5), [0, 25, 50]), [0.5, 0.3, 0.1], rtol=1e-5)
    cosine = make_config("--train_config.lr_schedule", "CosineDecay",
                         "--train_config.CosineDecay.end_learning_rate", 0.1,
                         "--train_config.CosineDecay.learning_rate", 0.5, "--train_config.CosineDecay.warmup_steps", 2)
    schedule = build_schedule(cosine.train_config, 10, 5)
    np.testing.assert_allclose(rates(schedule, [0, 25, 50]), [0.25, 0.3, 0.1], rtol=1e-5)


@pytest.mark.parametrize("steps, warned", [(99, True), (100, False)])
def test_a_warmup_longer_than_the_run_is_reported(steps, warned, make_config, console):
    config = make_config("--train_config.lr_schedule", "PolyDecay", "--train_config.PolyDecay.warmup_steps", 100)
    engine.warn_of_warmup(config.train_config, steps)
    assert ("train_config.PolyDecay.warmup_steps 100" in console.readouterr().out) == warned
