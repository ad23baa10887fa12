"""The lab: sets of image-caption pairs, training, evaluation, experiments and pictures made with a model."""
