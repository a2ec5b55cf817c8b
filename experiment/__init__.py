"""One run: its settings, its models, its samples, its records."""
