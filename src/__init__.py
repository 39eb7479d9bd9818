"""CenterNet (Objects as Points) on MindSpore."""
