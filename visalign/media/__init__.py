"""Images and videos: reading, writing, fitting and measuring them."""
