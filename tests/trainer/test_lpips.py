from pathlib import Path

import pytest
import torch

from tokenlaw.trainer.losses import lpips, random_vgg
from tokenlaw.trainer.models import pretrained


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file of VGG16's shapes with random contents, and its digest: no weights, no real LPIPS."""
    layout = random_vgg.Loss(random_vgg.Config(seed=7)).model.net.state_dict()
    stored = {"features." + name.split(".", 1)[1]: value for name, value in layout.items()}
    path = tmp_path_factory.mktemp("weights") / "some-backbone.pth"
    torch.save(stored, path)
    return path, pretrained.file_sha256(path)


def load(backbone: tuple[Path, str], **options: bool) -> lpips.Loss:
    path, digest = backbone
    config = lpips.Config(backbone_sha256=digest[:12], **options)
    return lpips.Loss(config, {lpips.BACKBONE: str(path)})


def images(seed: int, size: int = 16) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_distance_is_the_published_formula_on_backbone_and_heads(
    backbone: tuple[Path, str],
) -> None:
    import lpips as package

    loss = load(backbone)
    stored = torch.load(backbone[0], weights_only=True)
    heads_file = Path(package.__file__).parent / "weights" / "v0.1" / "vgg.pth"
    heads = torch.load(heads_file, map_location="cpu", weights_only=True)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = images(0), images(1)

    def features(image: torch.Tensor) -> list[torch.Tensor]:
        h, kept = (image - shift[:, None, None]) / scale[:, None, None], []
        for index in range(30):
            if f"features.{index}.weight" in stored:
                weight, bias = (stored[f"features.{index}.{n}"] for n in ("weight", "bias"))
                h = torch.nn.functional.conv2d(h, weight, bias, padding=1).relu()
            elif index in (4, 9, 16, 23):
                h = torch.nn.functional.max_pool2d(h, 2)
            if index in (2, 7, 14, 21, 28):
                kept.append(h / (h.norm(dim=1, keepdim=True) + 1e-10))
        return kept

    expected = 0.0
    for layer, (a, b) in enumerate(zip(features(x), features(y), strict=True)):
        difference = (a - b).square() * heads[f"lin{layer}.model.1.weight"]
        expected += difference.sum(1).mean().item()
    assert loss(x, y).item() == pytest.approx(expected, rel=1e-4)
    assert loss(x, x).item() == 0.0


def test_it_stays_in_eval_mode_and_frozen_whatever_the_loop_does(
    backbone: tuple[Path, str],
) -> None:
    loss = load(backbone)
    parent = torch.nn.ModuleList([loss])
    parent.train()
    assert not any(module.training for module in loss.modules())
    assert not any(p.requires_grad for p in loss.parameters())
    assert loss(images(0), images(1)) == loss(images(0), images(1))


def test_the_dropout_of_other_code_bases_is_a_switch(backbone: tuple[Path, str]) -> None:
    loss = load(backbone, lpips_dropout_compat=True)
    torch.manual_seed(0)
    values = {round(loss(images(0), images(1)).item(), 6) for _ in range(4)}
    assert len(values) == 4
    loss.eval()
    assert loss(images(0), images(1)) == loss(images(0), images(1))


def test_the_gradient_reaches_the_reconstruction(backbone: tuple[Path, str]) -> None:
    y = images(1).requires_grad_()
    load(backbone)(images(0), y).backward()
    assert y.grad is not None and y.grad.abs().max() > 0 and torch.isfinite(y.grad).all()


def test_a_missing_file_says_which_where_and_what_works_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="weights vgg16-397923af.pth") as error:
        lpips.Loss(lpips.Config())
    text = str(error.value)
    assert str(tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth") in text
    assert "--weights vgg16-397923af.pth=PATH" in text
    assert "random_vgg" in text
    assert "\n" not in text
    with pytest.raises(ValueError, match="where there is no such file"):
        lpips.Loss(lpips.Config(), {lpips.BACKBONE: str(tmp_path / "no.pth")})


def test_the_cache_of_torch_hub_is_looked_at(
    backbone: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert str(pretrained.cache_folder()) == torch.hub.get_dir() + "/checkpoints"
    pretrained.cache_folder().mkdir(parents=True)
    (pretrained.cache_folder() / lpips.BACKBONE).symlink_to(backbone[0])
    lpips.Loss(lpips.Config(backbone_sha256=backbone[1]))


def test_another_files_contents_are_refused(backbone: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not begin with 397923af"):
        lpips.Loss(lpips.Config(), {lpips.BACKBONE: str(backbone[0])})
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, other)
    digest = pretrained.file_sha256(other)
    with pytest.raises(ValueError, match="is not torchvision's VGG16"):
        lpips.Loss(lpips.Config(backbone_sha256=digest), {lpips.BACKBONE: str(other)})


def test_inputs_that_lpips_would_measure_wrongly_are_refused() -> None:
    loss = random_vgg.Loss(random_vgg.Config())
    with pytest.raises(ValueError, match="uint8"):
        loss(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), images(0))
    with pytest.raises(ValueError, match=r"\(1, 1, 16, 16\)"):
        loss(torch.zeros(1, 1, 16, 16), images(0))
    with pytest.raises(ValueError, match="resolution: 8 px is too small"):
        random_vgg.Config().cost(8)


def test_the_random_network_is_a_function_of_its_seed_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = random_vgg.Loss(random_vgg.Config())
    assert torch.rand(1) == expected, "the global generator is untouched"
    second = random_vgg.Loss(random_vgg.Config())
    other = random_vgg.Loss(random_vgg.Config(seed=1))
    x, y = images(0), images(1)
    assert first(x, y) == second(x, y) > 0
    assert first(x, y) != other(x, y)
    first.train()
    assert not any(module.training for module in first.modules())


def test_costs_at_256_pixels() -> None:
    for config in (lpips.Config(), random_vgg.Config()):
        assert round(config.cost(256).macs / 1e9, 1) == 20.0
    assert lpips.Config().cost(256).params - random_vgg.Config().cost(256).params == 1472
