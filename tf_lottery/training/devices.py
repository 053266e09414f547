"""From ``--distribute`` to the devices of a ``Distribution``."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from tf_lottery.errors import UsageError
from tf_lottery.keras import set_worker_timeouts, tf
from tf_lottery.training.distribution import Distribution

_START_SECONDS = 3600  # until all processes have to be there
# Of a Slurm job, by its number: jobs that share a node are kept apart.
_FIRST_PORT, _PORTS = 20000, 10000


def make_distribution(
    kind: str,
    devices: int = 0,
    tpu: str = "local",
    timeout: int = 120,
    announce: Callable[[str], Any] = print,
) -> Distribution:
    """The devices that are to share each batch.

    Has to be called before TensorFlow has started its devices.

    Args:
      kind: one of ``settings.DISTRIBUTIONS``.
      devices: how many, of all processes together; 0: all there are.
      tpu: name or address of a TPU.
      timeout: seconds after which a process that is silent counts as lost.
      announce: told when other processes are waited for.

    Raises:
      UsageError: there are not as many devices, no TPU, or no description of the
        processes that train together.
    """
    if kind == "none":
        return Distribution()
    distribution = {
        "mirrored": lambda: Distribution(tf.distribute.MirroredStrategy(_local(devices))),
        "multiworker": lambda: _workers(timeout, announce),
        "tpu": lambda: _tpu(tpu),
    }[kind]()
    if devices not in (0, distribution.replicas):
        raise UsageError.bad_value(
            "devices", devices, f"{distribution.replicas}, as many as there are, or left out"
        )
    return distribution


def _local(devices: int) -> list[str]:
    """Names of the devices of a mirrored training."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if devices > len(gpus):
            raise UsageError.bad_value(
                "devices", devices, f"at most {len(gpus)}, the number of GPUs"
            )
        return [f"GPU:{i}" for i in range(devices or len(gpus))]
    if not devices:
        raise UsageError(
            "--distribute=mirrored: there is no GPU; --devices=N makes N devices of the CPU",
            "distribute",
        )
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * devices,
    )
    return [f"CPU:{i}" for i in range(devices)]


def _workers(timeout: int, announce: Callable[[str], Any]) -> Distribution:
    if "TF_CONFIG" not in os.environ and "SLURM_STEP_NODELIST" in os.environ:
        os.environ["TF_CONFIG"] = _tf_config_of_slurm(os.environ)
    worker, workers = _place_among_workers(os.environ.get("TF_CONFIG"))
    if workers > 1:
        announce(f"worker {worker} of {workers}, counted from 0: waiting for the others to start")
    set_worker_timeouts(_START_SECONDS, timeout)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"--distribute=multiworker: worker {worker} of {workers} cannot join "
            f"({_reason(error)})",
            "distribute",
        ) from error
    return Distribution(strategy, worker, workers)


def _place_among_workers(tf_config: str | None) -> tuple[int, int]:
    """Number of this process, the chief being 0, and of all processes."""
    form = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": N}}'
    if tf_config is None:
        raise UsageError(
            f"--distribute=multiworker: each process needs TF_CONFIG in its environment: {form}; "
            "under srun it is made by itself",
            "distribute",
        )
    try:
        document = json.loads(tf_config)
        jobs, task = document["cluster"], document["task"]
        if set(jobs) - {"chief", "worker"} or len(jobs.get("chief", ())) > 1:
            raise KeyError("cluster")
        tasks = [(job, i) for job in sorted(jobs) for i in range(len(jobs[job]))]
        return tasks.index((task["type"], int(task["index"]))), len(tasks)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"--distribute=multiworker: TF_CONFIG is {tf_config!r}, must be {form} with the task "
            "in the cluster",
            "distribute",
        ) from None


def _tf_config_of_slurm(environment: Mapping[str, str]) -> str:
    """What ``TF_CONFIG`` has to be in a task of a Slurm step with one task a node.

    TensorFlow's SlurmClusterResolver is not used: it sorts the hosts by name, so that
    ``n10`` comes before ``n9`` and tasks get each other's addresses.
    """
    nodes, job = environment["SLURM_STEP_NODELIST"], environment.get("SLURM_JOB_ID", "0")
    try:
        shown = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(
            f"--distribute=multiworker: scontrol does not tell the nodes of {nodes} ({error}); "
            "set TF_CONFIG",
            "distribute",
        ) from None
    hosts = shown.stdout.split()
    tasks = int(environment["SLURM_STEP_NUM_TASKS"])
    if tasks != len(hosts):
        raise UsageError(
            f"--distribute=multiworker: {tasks} tasks on {len(hosts)} nodes, must be one a node, "
            "which takes all its GPUs (srun --ntasks-per-node=1)",
            "distribute",
        )
    port = _FIRST_PORT + int(job) % _PORTS
    return json.dumps(
        {
            "cluster": {"worker": [f"{host}:{port}" for host in hosts]},
            "task": {"type": "worker", "index": int(environment["SLURM_PROCID"])},
        }
    )


def _tpu(name: str) -> Distribution:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name)
        if name != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return Distribution(tf.distribute.TPUStrategy(resolver))
    except (tf.errors.OpError, ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"--tpu: no TPU answers at {name!r} ({_reason(error)})", "tpu") from error


def _reason(error: Exception) -> str:
    return textwrap.shorten(str(error), 200)
