"""Makes a training set robust. This stage is not written yet."""
