"""What a refinement is made of: the similarity to what is known, the evidence of tracks, the adjustment, the maps."""
