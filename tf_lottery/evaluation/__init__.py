"""Clean and robust accuracy of any classifier on [0, 1] images.

Attacks run on the real gradient, in float32 and inference mode. An example
counts as robust only if it is classified correctly *both* clean and attacked: the
clean image lies in the eps-ball too. (Published tables often count the attacked
image alone, which can only be higher.)
"""

from tf_lottery.evaluation.cautions import RobustnessWarning
from tf_lottery.evaluation.checkpoint import Checkpoint
from tf_lottery.evaluation.evaluator import Evaluator, evaluate
from tf_lottery.evaluation.models import logits_function
from tf_lottery.evaluation.result import Evaluation

__all__ = [
    "Checkpoint",
    "Evaluation",
    "Evaluator",
    "RobustnessWarning",
    "evaluate",
    "logits_function",
]
