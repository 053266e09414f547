"""The training that the tests of guards watch over."""

from tf_lottery.options.settings import ObjectiveConfig, ScheduleConfig, TrainConfig
from tf_lottery.training.task import Reporting

QUIET = Reporting(verbose=0)
NATURAL = TrainConfig(
    objective=ObjectiveConfig("natural"),
    epochs=3,
    batch_size=32,
    schedule=ScheduleConfig("constant", peak=0.05),
    on_nan="rollback",
)
