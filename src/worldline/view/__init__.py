"""A scene to look at: one HTML page, stills without a window, and a live view."""
