"""How sparse the network is after each round of pruning."""

from __future__ import annotations

from tf_lottery.options.settings import PruneConfig

HALF_LIFE = 10  # rounds in which the ``decreasing`` schedule covers half of its way


def sparsities(config: PruneConfig) -> list[float]:
    """Sparsity over all weights after round 1, 2, ...; the last is exactly the target.

    - ``one_shot``: the target at once.
    - ``geometric``: each round removes ``round_fraction`` of what is left, f, so that
      round i ends at 1 - (1 - f)**i; as many rounds as it takes (Frankle & Carbin 2019).
    - ``decreasing``: round i of n ends at target * [i / (i + 10)] / [n / (n + 10)] (the
      code of arXiv 2003.05733): smaller and smaller steps.
    """
    target = config.sparsity
    if target == 0 or config.schedule == "one_shot":
        return [target]
    result: list[float] = []
    if config.schedule == "geometric":
        left = 1 - config.round_fraction
        # The tolerance: 1 - 0.8**2 is a rounding error short of 0.36, not a round short.
        while (sparsity := 1 - left ** (len(result) + 1)) < target - 1e-9:
            result.append(sparsity)
    else:
        n = config.rounds
        end = n / (n + HALF_LIFE)
        result = [target * (i / (i + HALF_LIFE)) / end for i in range(1, n)]
    return [*result, target]
