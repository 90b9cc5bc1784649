"""What is known of each family beyond what its pipeline shows."""
