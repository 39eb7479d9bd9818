"""COCO files, MindRecord files, training set."""
