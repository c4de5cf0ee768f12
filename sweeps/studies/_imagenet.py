"""ImageNet-1k at 256 px and how the papers measure on it."""

from typing import Any

from ..grid import part

NUM_TRAIN, NUM_VAL = 1_281_167, 50_000
DATA = {
    "dataset": part("imagefolder"),
    "num_classes": 1000,
    "num_train": NUM_TRAIN,
    "num_val": NUM_VAL,
    "resolution": 256,
}
BF16 = {"precision": "bf16"}

# Reconstructions of the whole validation set, rFID against its originals.
RECONSTRUCTION: dict[str, Any] = {
    "subject": "tokenizer",
    "metrics": [
        part("fid"),
        part("psnr"),
        part("ssim"),
        part("ms_ssim"),
        part("lpips"),
        part("codebook_usage"),
    ],
    "numerics": BF16,
}


def samples(adm_sha256: str | None) -> dict[str, Any]:
    """Configure the evaluation of 50,000 samples, 50 of each class.

    The guidance scale is chosen on training images, never on the reference (CRT).
    The papers' reference is ADM's file of training statistics. It is taken when the first digits of
    its sha256 are given, and found by its name; else samples are compared with the validation
    images, which reads 0.7 to 2.4 higher (LlamaGen issues 48 and 53).
    """
    fid = part("fid", reference="val_images")
    if adm_sha256 is not None:
        fid = part("fid", reference="adm_npz", adm_sha256=adm_sha256)
    return {
        "subject": "generator",
        "metrics": [fid],
        "num_samples": 50_000,
        "cfg_selection": "train_subset",
        "cfg_grid": [1.5, 1.75, 2.0, 2.25],
        "batch_size": 256,
        "numerics": BF16,
    }


def epochs(number: int, batch_size: int, num_train: int = NUM_TRAIN) -> int:
    """Return the iterations of whole epochs; the last batch of an epoch may be short."""
    return -(-num_train // batch_size) * number
