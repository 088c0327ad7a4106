"""The `coordexp` command: turns errors into sentences and exit codes."""
