"""Perceptual and adversarial losses, one file each; `ROLE` says which.

A perceptual part (`ROLE = "perceptual"`) exposes `Config` with `weight` and `cost(resolution) ->
Cost` (one image through the network once) and `Loss(nn.Module)`, frozen and always in eval mode:
`forward(x_BCHW, y_BCHW) -> scalar`, both in [-1, 1]. `Config.weights() -> dict[str, str]` names the
files it must load (empty: none) with their sha256.

An adversarial part (`ROLE = "adversarial"`) exposes `Config` with `weight`, `start_iteration`,
`cost(resolution)`, `optim` (None: the tokenizer's settings) and `Loss(nn.Module)`, whose parameters
are the discriminator's:

    weight(step) -> float                                 gated weight of both sides at this step
    generator_loss(fake_BCHW) -> scalar
    discriminator_loss(real_BCHW, fake_BCHW) -> (scalar, stats)
    after_step()                                          e.g. weight clipping
"""
