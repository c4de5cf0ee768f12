"""The five kinds of run, one file each, named as configs name them."""
