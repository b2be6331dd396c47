"""Files in and out: videos, folders of images, and the formats of other tools."""
