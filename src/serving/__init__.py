"""The web service, to be run behind a proxy."""
