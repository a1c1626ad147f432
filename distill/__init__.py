"""Makes a training set small. This stage is not written yet."""
