"""The forms in which requests come: visalign's own, and those of other programs' reward services."""
