"""Where the stages of a command line run: here one by one, in processes, or on Ray."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tf_lottery import files
from tf_lottery.options.command import Command

if TYPE_CHECKING:
    from tf_lottery.engine.stage import Stage
    from tf_lottery.engine.store import Store
    from tf_lottery.training.distribution import Distribution


def make_places(command: Command, workdir: Path) -> Store:
    """Creates the work directory and the store of the command line.

    Raises:
      StoreError: one of them cannot be written; a bad ``--store`` leaves no new
        ``--workdir`` behind.
      UsageError: Ray is not installed, or nothing answers at ``--ray_address``; no
        directory is made then.
    """
    from tf_lottery.engine.remote_store import open_store

    if command.execution.executor == "ray":
        from tf_lottery.engine.ray import check_reachable

        check_reachable(command.execution.ray_address)
    if "store" in command.given:
        open_store(command.store, workdir / "stages")
    files.make_directory("workdir", workdir)
    return open_store(command.store, workdir / "stages")


def finish_stages(
    targets: Sequence[Stage],
    store: Store,
    logs: Path,
    command: Command,
    distribution: Distribution | None = None,
) -> dict[str, bool]:
    """Finishes every stage the targets need, by the executor of the command line.

    Args:
      targets: the stages wanted.
      store: of the command line.
      logs: TensorBoard logs go there.
      command: says how; ``--jobs`` counts with the local executor alone.
      distribution: devices that trainings share, where stages run one by one.

    Returns:
      For each stage key whether it was finished before.

    Raises:
      LotteryError: as the work does, or as the executor does.
    """
    from tf_lottery.engine.serial import run_stages
    from tf_lottery.lottery.work import Workshop

    chosen = command.execution
    announce = functools.partial(print, flush=True)
    if chosen.executor == "ray":
        from tf_lottery.engine.ray import run_on_ray

        return run_on_ray(
            targets,
            command.store,
            functools.partial(Workshop, log_root=logs.resolve()),
            chosen.ray_address,
            chosen.ray_cpus,
            chosen.ray_gpus,
            announce,
        )
    if chosen.jobs > 1:
        from tf_lottery.engine.processes import run_parallel

        make = functools.partial(Workshop, log_root=logs.resolve())
        return run_parallel(targets, store, make, chosen.jobs, announce)
    workshop = Workshop(store, logs, progress=True, distribution=distribution)
    return run_stages(targets, workshop, announce)
