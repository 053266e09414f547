"""From one results document to what a researcher reads. No TensorFlow."""
