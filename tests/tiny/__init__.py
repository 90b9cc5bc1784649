"""Small pipelines with random weights, of the real classes: images.py, videos.py and what they share."""
