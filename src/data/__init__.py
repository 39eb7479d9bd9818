"""COCO files, MindRecord files, the training set."""
