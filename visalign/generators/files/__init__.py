"""What a user has on disk or on the hub: found, read from headers, checked, and made into a diffusers pipeline."""
