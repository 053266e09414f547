"""One process of a run on several machines, watched from within.

    python worker_process.py FOLDER EPOCH [flags of tf_lottery]

In FOLDER it leaves ``<n>.npz``: weights and masks after its n-th training. It kills
itself as EPOCH (from 0; -1: never) of the first training begins.
"""

import os
import signal
import sys
from pathlib import Path

from tf_lottery import weights
from tf_lottery.lottery import work as stage_work
from tf_lottery.main import main
from tf_lottery.training import callbacks

folder, fatal = Path(sys.argv[1]), int(sys.argv[2])
train, begin = stage_work.train, callbacks.History.on_epoch_begin
trained = 0


def watched(masked, *arguments, **options):
    global trained
    rows = train(masked, *arguments, **options)
    values = weights.get_weights(masked.network)
    masks = {f"{name}/mask": mask for name, mask in masked.get_masks().items()}
    weights.write_arrays(folder / f"{trained}.npz", values | masks)
    trained += 1
    return rows


def doomed(history, epoch, logs=None):
    if epoch == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    begin(history, epoch, logs)


stage_work.train = watched
callbacks.History.on_epoch_begin = doomed
sys.exit(main(sys.argv[3:]))
