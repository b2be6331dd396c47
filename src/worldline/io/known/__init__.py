"""What a user already knows about a clip, read from files: calibration, poses, masks, depth, LiDAR, lengths."""
