"""The online loop and its parts: drawing, scoring, terms, updates."""
