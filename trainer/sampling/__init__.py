"""Draw codes from a trained generator and decode them to images."""
