"""What every other folder uses: errors, signals, files, the log. No MindSpore, no configuration."""
