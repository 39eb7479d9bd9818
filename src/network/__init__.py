"""The networks: backbones, upsampling, heads."""
