"""The web service, which stands behind a proxy."""
