"""Find and load a model; its layers; attention routing; masks; memory."""
