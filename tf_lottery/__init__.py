"""Boosting tickets for TensorFlow: sparse networks that train fast and robustly.

The public names below are loaded on first use, so that ``import tf_lottery``
(and ``--help``) does not import TensorFlow.

Reference: Li et al., "Towards Practical Lottery Ticket Hypothesis for
Adversarial Training", 2020, arXiv 2003.05733.
"""

import importlib
import os
import platform
import sys

__version__ = "0.1.0"

_PUBLIC = {
    "build_model": "tf_lottery.models",
    "make_attack": "tf_lottery.attacks",
    "prune": "tf_lottery.pruning",
    "compact": "tf_lottery.compaction",
    "evaluate": "tf_lottery.evaluation",
    "Ticket": "tf_lottery.tickets",
    "find_ticket": "tf_lottery.api",
    "train_ticket": "tf_lottery.api",
    "lottery_config": "tf_lottery.options.build",
}

__all__ = ["__version__", *_PUBLIC]

# TensorFlow leaves oneDNN off on x86 CPUs without AVX-512, where it makes a
# PGD training step about four times faster. It is read once, at TensorFlow's import.
if platform.machine().lower() in ("x86_64", "amd64") and "tensorflow" not in sys.modules:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
