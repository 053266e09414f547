"""Initial weights that are the same bits on every machine.

A ticket names its initialisation by seed and digest; whoever receives it makes the
weights again. TensorFlow's random normals go through the vector units' own
logarithm and cosine, so that a GPU, or another CPU, gets other last bits. NumPy's
are drawn by table (ziggurat) from integers, in double precision, and then rounded.
"""

from __future__ import annotations

import math

import numpy as np

from tf_lottery.keras import keras, tf


@keras.utils.register_keras_serializable("tf_lottery")
class FanInNormal(keras.initializers.Initializer):
    """Normal with variance gain / fan_in, drawn by NumPy's PCG64.

    Args:
      seed: int, at least 0.
      gain: 2 for layers before a ReLU (He et al. 2015, equation 10), 1 for linear ones.
    """

    def __init__(self, seed: int, gain: float = 2.0):
        self.seed = seed
        self.gain = gain

    def __call__(self, shape, dtype=None, **kwargs):
        deviation = math.sqrt(self.gain / math.prod(shape[:-1]))
        drawn = np.random.Generator(np.random.PCG64(self.seed)).standard_normal(tuple(shape))
        return tf.constant((drawn * deviation).astype(np.float32), dtype or tf.float32)

    def get_config(self):
        return {"seed": self.seed, "gain": self.gain}
