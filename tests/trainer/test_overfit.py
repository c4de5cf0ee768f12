"""Both stages learn 64 images by heart, one on the other, in the way a study's runs do.

Every loss but the perceptual one is on. The generator is scored on the codes of the tokenizer that
was scored on the images. About 50 s of one core.
"""

import numpy as np
import pytest
import tiny
import torch

from tokenlaw.trainer.datasets import digits
from tokenlaw.trainer.kinds.generator import token_loss
from tokenlaw.trainer.loop import data
from tokenlaw.trainer.loop.code_sets import Codes
from tokenlaw.trainer.models.build import load_generator, load_tokenizer
from tokenlaw.trainer.run import Settings

IMAGES = 64
CPU = torch.device("cpu")
QUIET = {**tiny.NO_DROPOUT, "class_dropout": 0.0}


@pytest.fixture
def own_classes():
    """64 digits, each a class of its own.

    With the digits' ten classes a generator must guess which of about six images is meant, and its
    cross-entropy has a floor of ln(6.4) nats an image, here 0.12 a token. So the floor is 0.
    """
    # The inner patch must go before the outer one, so it is no fixture of its own.
    with tiny.fewer_digits(IMAGES, IMAGES), pytest.MonkeyPatch.context() as patch:
        images_NHWC, _, val_N = digits._load(0)
        labels_N = np.where(val_N, np.cumsum(val_N), np.cumsum(~val_N)) - 1
        patch.setattr(digits, "NUM_CLASSES", IMAGES)
        patch.setattr(digits, "_load", lambda split_seed: (images_NHWC, labels_N, val_N))
        yield


def test_64_images_are_learnt_by_heart(home, own_classes):
    facts = tiny.data(8)
    optim = {"lr_peak": 1e-2, "beta2": 0.95, "warmup_iterations": 10, "schedule": "cosine"}
    tree = tiny.tokenizer(
        data=facts,
        tokenizer={**tiny.tokenizer()["tokenizer"], "ch": 12, "ch_mult": [1, 2], "z_channels": 16},
        quantizer=tiny.part("vq", codebook_size=512, entropy_weight=0.02),
        adversarial=tiny.PATCHGAN
        | {"objective": "hinge", "weight": 0.003, "start_iteration": 60, "ramp_iterations": 20},
        augment="none",
        iterations=340,
        batch_size=16,
        optim={"name": "adam", **optim},
    )
    tokenizer = tiny.done(home, "tokenizer", tree)
    tree = tiny.codes(data=facts, crops="center", num_train=None)
    codes = tiny.done(home, "codes", tree, {"tokenizer": tokenizer})
    tree = tiny.generator(
        {"width": 64, "position": "learned", "init_std": 0.1, **QUIET},
        iterations=80,
        batch_size=32,
        optim=optim,
    )
    generator = tiny.done(home, "generator", tree, {"codes": codes})

    encoder, quantizer, config = load_tokenizer(tokenizer, CPU)
    pixels = data.open_images(config.data, Settings(), "train").center(torch.arange(IMAGES))
    model, _ = load_generator(generator, CPU)
    code_NCL, label_N = Codes(codes).split("train")
    code_BL = torch.from_numpy(code_NCL[:, 0].astype(np.int64))
    class_B = torch.from_numpy(np.asarray(label_N, dtype=np.int64))
    assert sorted(class_B.tolist()) == list(range(IMAGES))
    with torch.inference_mode():
        shown = data.to_uint8(encoder.decode(quantizer.lookup(code_BL)))
        error_B = (shown.double() - pixels.double()).square().mean((1, 2, 3))
        cross_entropy = token_loss(model(code_BL[:, :-1], class_B), code_BL).mean().item()
    psnr = (10 * (255**2 / error_B).log10()).mean().item()
    assert psnr > 25, (psnr, cross_entropy)
    # One code everywhere would be known by heart at once.
    assert len(np.unique(code_BL.numpy(), axis=0)) == IMAGES
    assert len(code_BL.unique()) > 100
    assert cross_entropy < 0.1, (psnr, cross_entropy)
