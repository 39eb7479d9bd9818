"""What a training wrote, and pages and charts of it."""
