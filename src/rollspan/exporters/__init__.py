"""Where finished sessions go."""
