"""Where results come from: machine and images."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from tf_lottery.data import ImageData
from tf_lottery.keras import tf


def machine() -> dict:
    """The machine and the software that results depend on."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def images(data: ImageData, validation_images: int) -> dict:
    """The images, as a results document states them.

    Args:
      data: the images.
      validation_images: used after each epoch; 0: all of them.
    """
    return {
        "name": data.name,
        "train": len(data.train_labels),
        "validation": len(data.validation_labels),
        "validation_used": validation_images or len(data.validation_labels),
        "test": len(data.test_labels),
        "digest": data.digest,
        "classes": list(data.class_names),
    }
