"""What is detected: a folder each."""
