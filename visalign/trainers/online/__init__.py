"""The online loop and its parts: drawing, judging, terms, updates."""
