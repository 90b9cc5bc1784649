"""What leaves a run: folders, single files and their cards."""
