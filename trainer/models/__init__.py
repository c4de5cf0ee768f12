"""The generator's network and the files of pretrained weights."""
