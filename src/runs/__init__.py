"""Training records, and pages and charts about runs."""
