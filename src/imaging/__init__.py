"""Images: encoded files, geometry, color, gaussians, the input's view, drawing."""
