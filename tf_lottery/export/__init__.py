"""Trained networks as files that need neither this package nor Keras.

``saved_model`` writes SavedModels, ``tflite`` TFLite files; ``artefacts`` reads both back as
a user would, and says what is in them; ``latency`` times them side by side.
"""

from tf_lottery.export.saved_model import export_saved_model

__all__ = ["export_saved_model"]
